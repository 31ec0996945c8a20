"""The report of a check as a document: what it says of parity, accuracy, latency, suspicion and what it left out."""
