"""purify-demo: a page to try a bundle on, with attacks to choose from."""
