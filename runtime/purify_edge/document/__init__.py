"""Reports as documents: what one consists of, and how it becomes text on a terminal, Markdown or an HTML page."""
