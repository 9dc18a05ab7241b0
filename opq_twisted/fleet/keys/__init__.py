"""The keys of boxes: operators admit, distrust and forget them, and new ones replace old ones."""
