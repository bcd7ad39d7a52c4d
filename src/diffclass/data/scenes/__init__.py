"""Physically rendered scenes after CLEVR (Johnson et al. 2017), and what is known about each.

scene: objects, camera and lamps as numbers, and their JSON record. placing: where objects may stand. meshes: the
shapes. rendering: pictures by Mitsuba, and what part of each pixel shows which object. seeing: whether a picture shows
what its label says. making: pictures and records on the disk. Johnson et al. rendered with Blender's Cycles: geometry,
colours and placement are theirs, light and materials are like theirs.
"""
