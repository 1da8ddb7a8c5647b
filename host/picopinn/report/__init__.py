"""``picopinn report``: one page that tells a run, or compares some; the same page live while a run trains."""
