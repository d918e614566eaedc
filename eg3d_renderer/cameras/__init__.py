"""Camera labels in the convention of EG3D (Chan et al., 2022): poses, rigs, other conventions.

A label is 25 float32: 16 of the row-major cam2world matrix, then 9 of the row-major intrinsics,
normalised by the image size (so that they hold at any resolution).

    world                          camera (OpenCV)            image, R x R pixels
        y                             z  forward              (0,0)----> u = (i + 0.5) / R
        |   the face                 /                          |
        |   looks to +z             o----> x  right             |
        o-----> x                   |                           v = (j + 0.5) / R
       /                            y  down
      z

Seen from above, yaw turns from the front of the face towards +x; seen from the side, elevation
lifts the camera. It stands on a sphere around the origin and looks at the pivot, near the origin.

              back, yaw 180                               a pole, elevation 90: refused
                   -z                                           +y
                    |                                            |    , camera
           -x ---- head ---- +x  yaw 90                          |  ,'  elevation
                    |                               back  -z -- head --- +z  front
                   +z                                            |
              front, yaw 0                                      -y

View i of an orbit of V has yaw 360 i / V degrees. EG3D's own angles, which `sample_pose` takes, are
radians: its yaw is pi/2 + yaw, its pitch pi/2 (1 - sin elevation), not linear in degrees.

    convention      camera axes                    world axes          who uses it
    EG3D            x right, y down, z forward     y up, face to +z    labels, this package
    OpenGL          x right, y up, z back          y up, face to +z    `to_opengl`
    Blender         x right, y up, z back          z up, face to -y    `to_blender`, NeRF's
                                                                       transforms.json

What the published models are shown with; a generator's `camera` says radius, pivot and focal:

    model                   pivot          radius   focal    yaw            truncation psi
    EG3D, FFHQ              0, 0, 0.2      2.7      4.2634   -23..23        0.7
    EG3D, AFHQ cats         0, 0, -0.06    2.7      4.2634   -23..23        0.7
    EG3D, ShapeNet cars     0, 0, 0        1.7      4.2634   -23..23        0.7
    PanoHead, SphereHead    0, 0, 0        2.7      4.2634   full circle    0.7

EG3D's three sample views are grid:3x1 with yaw=-22.918..22.918, elevation=7.317..7.317.
"""

from eg3d_renderer.cameras.conventions import (
    from_blender,
    from_opengl,
    from_transforms,
    to_blender,
    to_opengl,
    to_transforms,
)
from eg3d_renderer.cameras.notation import parse_rig
from eg3d_renderer.cameras.poses import (
    FOCAL,
    RADIUS,
    focal_from_fov,
    intrinsics,
    label,
    pixel_centres,
    rays,
    sample_pose,
    split,
    validate,
)
from eg3d_renderer.cameras.rigs import (
    explicit,
    grid,
    make_rig,
    orbit,
    random,
    spiral,
)

__all__ = [
    "FOCAL",
    "RADIUS",
    "explicit",
    "focal_from_fov",
    "from_blender",
    "from_opengl",
    "from_transforms",
    "grid",
    "intrinsics",
    "label",
    "make_rig",
    "orbit",
    "parse_rig",
    "pixel_centres",
    "random",
    "rays",
    "sample_pose",
    "spiral",
    "split",
    "to_blender",
    "to_opengl",
    "to_transforms",
    "validate",
]
