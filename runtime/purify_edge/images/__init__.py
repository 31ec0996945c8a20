"""Images: arrays, decoded files, folders, zips and videos, brought to a bundle's input contract."""
