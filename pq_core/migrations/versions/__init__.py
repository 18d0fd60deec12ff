"""One revision per pair of files: ``revision_NNNN.py`` says what it follows, ``NNNN_name.sql`` says what it does."""
