"""``/docs``: every operation of an app, from its OpenAPI document, with a form to try it. All of it comes from here.

FastAPI's own page loads its scripts from elsewhere: blank without a network, and a stranger's code beside our controls.
"""

from backpressure.api.reference.serving import serve_reference

__all__ = ["serve_reference"]
