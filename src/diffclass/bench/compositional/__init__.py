"""Compositional generalisation (Pearson et al. 2025): concepts and their splits, pictures of them, and candidates.

concepts: classes, pairs and relations by split. candidates: the captions that compete for a picture. item, items:
pictures with their candidates. rendered: data sets of rendered pictures.
"""
