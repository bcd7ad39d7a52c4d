"""A page and a JSON API on one computer: pictures in, races to watch, answers and certificates out."""

from diffclass.web.app import create_app
from diffclass.web.limits import Limits
from diffclass.web.offer import Offer
from diffclass.web.serving import Address, make_token, serve

__all__ = ["Address", "Limits", "Offer", "create_app", "make_token", "serve"]
