"""Geometries of data that is no table of numbers: one file each, with `embed` into Euclidean coordinates, and a class.

    from heatwalk.spaces import SO3, SU, Euclidean, Grassmannian, Power, Product, Sphere, Torus
    Sphere(2).log_heat_kernel(x, y, t)  # t = variance of Brownian motion: the kernel of exp(t/2 Laplacian)

Each class has exp, log, distance, project, random_point, log_heat_kernel, score and sample_heat_kernel.
"""

from heatwalk.spaces import euclidean, so3, sphere, torus
from heatwalk.spaces.euclidean import Euclidean
from heatwalk.spaces.grassmannian import Grassmannian
from heatwalk.spaces.product import Power, Product
from heatwalk.spaces.so3 import SO3
from heatwalk.spaces.sphere import Sphere
from heatwalk.spaces.su import SU
from heatwalk.spaces.torus import Torus

SPACES = {"euclidean": euclidean, "sphere": sphere, "torus": torus, "so3": so3}

__all__ = ["SO3", "SPACES", "SU", "Euclidean", "Grassmannian", "Power", "Product", "Sphere", "Torus"]
