"""Care for finished data sets: published, merged, cut anew, counted and looked at."""
