"""Census-Income (KDD), the field's benchmark of multi-task learning: income and marital status from a survey."""
