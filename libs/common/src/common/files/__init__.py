"""Read the files that people upload: the encoding, the lines, the cells, the columns, the instants. Pure."""
