"""Published claims, each run again on the bundled world with several seeds, with a figure and a table."""
