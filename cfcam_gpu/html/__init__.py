"""What both HTML pages share: the base template, style and rendering."""
