"""The frontier: what each teacher is worth to a student without the classifier, clean against grey-box accuracy."""
