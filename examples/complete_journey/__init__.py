"""Ranking promoted grocery products: category engagement, purchase and value on the Complete Journey data."""
