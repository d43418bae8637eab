"""The networks of the two pathways."""
