"""purify-run: purify and classify images, videos and cameras."""
