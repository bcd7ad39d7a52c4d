"""Compositional generalisation: pictures with candidate captions, of which one is true."""
