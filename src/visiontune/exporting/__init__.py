"""A trained model as one file that needs none of this package."""
