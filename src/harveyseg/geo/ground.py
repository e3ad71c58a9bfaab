"""The size of pixels on the ground, in metres, for any coordinate reference system.

Everything is measured on the WGS 84 ellipsoid: units of the system itself mislead. At Houston, pixels of web Mercator
look a third too large, and those of a state plane may be in feet.
"""

import os
from dataclasses import dataclass

import numpy as np
from affine import Affine
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import CRSError, ProjError

from harveyseg.arrays import FloatArray
from harveyseg.errors import HarveysegError

ELLIPSOID = Geod(ellps="WGS84")
_REACH = 100.0
"""Pixels on each side of the centre between which distances are measured."""
_POINTS_PER_SIDE = 20
_INVENTED_ZONE = 32630
_MOST_LONGITUDE, _MOST_LATITUDE = 540.0, 90.0 + 1e-6
"""Degrees; mosaics across the date line count on beyond 180."""
_MARGIN = 5.0
"""Degrees; zones are used somewhat beyond their borders."""


@dataclass(frozen=True)
class Georeference:
    """Where the pixels of a raster are on the ground."""

    crs: str
    """The coordinate reference system as WKT: not every system has an EPSG number."""
    transform: Affine
    """From (column, row), in pixels from the upper left corner, to coordinates (x, y)."""

    def pixel_size(self, size: tuple[int, int]) -> tuple[float, float]:
        """(height, width) in metres of the pixel at the centre of a raster of ``size`` (height, width) pixels."""
        row, column = size[0] / 2, size[1] / 2
        ends = [(column, row - _REACH), (column, row + _REACH), (column - _REACH, row), (column + _REACH, row)]
        longitudes, latitudes = self._to_degrees(np.array(ends))
        _, _, lengths = ELLIPSOID.inv(longitudes[::2], latitudes[::2], longitudes[1::2], latitudes[1::2])
        return float(lengths[0] / (2 * _REACH)), float(lengths[1] / (2 * _REACH))

    def row_pixel_area(self, rows: slice, width: int) -> float:
        """Mean area in square metres of a pixel in some rows of a raster ``width`` pixels wide."""
        top, bottom = rows.start, rows.stop
        share = np.arange(_POINTS_PER_SIDE) / _POINTS_PER_SIDE
        sides = [((0, top), (width, top)), ((width, top), (width, bottom))]
        sides += [((width, bottom), (0, bottom)), ((0, bottom), (0, top))]
        outline = [np.outer(1 - share, start) + np.outer(share, end) for start, end in sides]
        area, _ = ELLIPSOID.polygon_area_perimeter(*self._to_degrees(np.concatenate(outline)))
        mean: float = abs(float(area)) / ((bottom - top) * width)
        return mean

    def is_invented(self) -> bool:
        """Whether this is what OpenDroneMap makes up for photos without positions: UTM zone 30N, starting at 0, 0."""
        at_zero = (self.transform.c, self.transform.f) == (0.0, 0.0)
        return at_zero and CRS.from_wkt(self.crs).to_epsg() == _INVENTED_ZONE

    def problem(self, size: tuple[int, int]) -> str | None:
        """Why nothing can be measured on the ground of a raster of ``size`` pixels; None where everything can.

        Examples are a system of a building site, of heights or of the moon, and coordinates in metres that are said to
        be degrees.
        """
        try:
            system = CRS.from_wkt(self.crs)
            if not _is_of_maps(system):
                return f"{system.name!r} is no system of places on the earth"
            height, width = size
            corners = np.array([(0, 0), (width, 0), (width / 2, height / 2), (0, height), (width, height)], np.float64)
            longitudes, latitudes = self._to_degrees(corners)
            pixel = self.pixel_size(size)
        except (CRSError, ProjError):
            return "its coordinate reference system cannot be converted to longitude and latitude"
        on_earth = (np.abs(longitudes) <= _MOST_LONGITUDE) & (np.abs(latitudes) <= _MOST_LATITUDE)
        if not on_earth.all():  # also where they are no numbers
            x, y = self.transform @ (width / 2, height / 2)
            return f"its coordinates ({x:.9g}, {y:.9g}) are no place on the earth in {system.name}"
        if not (np.isfinite(pixel).all() and min(pixel) > 0):
            return "its pixels have no size"
        return None

    def is_far_from_area_of_use(self, size: tuple[int, int]) -> bool:
        """Whether the centre is more than 5 degrees outside the area that its system is meant for."""
        area = CRS.from_wkt(self.crs).area_of_use
        if area is None:
            return False
        (longitude,), (latitude,) = self._to_degrees(np.array([(size[1] / 2, size[0] / 2)]))
        width = (area.east - area.west) % 360 or 360.0
        from_west = (longitude - area.west + _MARGIN) % 360
        inside = area.south - _MARGIN <= latitude <= area.north + _MARGIN and from_west <= width + 2 * _MARGIN
        return not inside

    def _to_degrees(self, pixels: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Longitudes and latitudes of points (column, row), float64 (n, 2)."""
        x, y = self.transform @ tuple(pixels.T)
        transformer = Transformer.from_crs(CRS.from_wkt(self.crs), CRS.from_epsg(4326), always_xy=True)
        longitudes, latitudes = transformer.transform(x, y)
        return np.asarray(longitudes), np.asarray(latitudes)


def parse_crs(text: str) -> str:
    """The WKT of a coordinate reference system given as a user writes it, such as EPSG:32615.

    Raises:
        HarveysegError: when there is no such system, or it is none of maps: of heights, say.
    """
    try:
        system = CRS.from_user_input(text)
    except CRSError:
        raise HarveysegError(f"--crs {text}: not a known coordinate reference system; write e.g. EPSG:32615.") from None
    if not _is_of_maps(system):
        raise HarveysegError(f"--crs {text}: {system.name} is no system of maps; write e.g. EPSG:32615.")
    return system.to_wkt()


def is_same_crs(first: str, second: str) -> bool:
    """Whether two coordinate reference systems, as WKT, are the same."""
    return CRS.from_wkt(first).equals(CRS.from_wkt(second), ignore_axis_order=True)


def local_crs(crs: str, x: float, y: float) -> str:
    """The WKT of a metric system around a point, for places that no zone of UTM covers, such as the poles.

    Distances from the point are true; 100 km away, others are wrong by less than 0.01%.

    Args:
        crs: the system of the coordinates, as WKT.
        x: longitude or easting.
        y: latitude or northing.
    """
    longitude, latitude = Transformer.from_crs(CRS.from_wkt(crs), CRS.from_epsg(4326), always_xy=True).transform(x, y)
    return CRS.from_dict({"proj": "aeqd", "lat_0": latitude, "lon_0": longitude, "datum": "WGS84"}).to_wkt()


def _is_of_maps(system: CRS) -> bool:
    return system.is_projected or system.is_geographic


def foreign_projection_data() -> str | None:
    """The environment variable that leads rasterio to another program's projection data; None if there is none.

    QGIS, conda and PostGIS set it. Their data may be of another version, which makes every georeferenced file fail.
    """
    import rasterio.crs
    import rasterio.errors

    try:
        rasterio.crs.CRS.from_epsg(4326)
    except rasterio.errors.CRSError:
        return next((name for name in ("PROJ_DATA", "PROJ_LIB") if os.environ.get(name)), None)
    return None
