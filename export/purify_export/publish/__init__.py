"""What is published about a bundle: what it is made of, and its model card on the Hugging Face hub."""
