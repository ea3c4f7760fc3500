"""The command line, `segue`: one module per noun, settings in `segue.settings`."""
