"""The networks of the EG3D family; parameters and buffers carry the names of its checkpoints."""
