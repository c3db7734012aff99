"""What a study will cost before it runs, and how that compares with what it did cost."""
