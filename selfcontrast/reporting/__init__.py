"""The report of a study: one page that holds its tables, figures and answers and asks the network for nothing."""
