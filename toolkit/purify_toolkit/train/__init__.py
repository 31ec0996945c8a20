"""purify-train: classifier, teachers and student."""
