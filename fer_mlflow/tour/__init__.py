"""Faces that are drawn, for people who have none: seven expressions, many people, three sources of pictures.

What an expression moves follows the action units of Ekman and Friesen's Facial Action Coding System; the
distributions of neighbouring expressions overlap, as in life.
"""

from fer_mlflow.tour.faces import DrawnFace, draw_face
from fer_mlflow.tour.writing import contact_sheet, write_faces

__all__ = ["DrawnFace", "contact_sheet", "draw_face", "write_faces"]
