"""All measures of one or several models on one page."""
