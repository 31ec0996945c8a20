"""What others are told of a bundle: what it is made of, and its model card on the Hugging Face hub."""
