"""The table of results: what is trained (``rows``), how (``cells``), and what is written of it (``page``,
``pictures``)."""
