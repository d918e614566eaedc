"""What people bring: portraits and identities of any origin, styles, and tables of both."""
