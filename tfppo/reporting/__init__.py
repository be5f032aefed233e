"""Records and shows runs: the table of metric names, metric writers, diagnoses and plots."""
