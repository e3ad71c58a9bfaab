"""Single objects of the demo: roofs and what is on them, trees, cars, boats, pools and street furniture.

Each function draws one object into a world. x and y are metres, angles radians, and u, v below are metres along the
object's own axes.
"""

import numpy as np

from harveyseg.data.demo.world import CARS, FENCE, GLASS, Colour, Label, World, box, rgb


def add_roof(
    world: World,
    x: float,
    y: float,
    angle: float,
    parts: list[tuple[float, float, float, float]],
    colour: Colour,
    label: int = Label.ROOF,
    wall: float = 3.0,
    pitch: float = 0.5,
    hip: bool = True,
) -> None:
    """Add a roof over the union of rectangles.

    Where slopes meet, the highest one wins, which makes the valleys.

    Args:
        world: what to draw into.
        x: of the roof's centre.
        y: of the roof's centre.
        angle: of its width against the strip's.
        parts: (du, dv, width, depth) in metres of each rectangle, du and dv from the centre.
        colour: of the shingles.
        label: class id.
        wall: height of the eaves in metres.
        pitch: rise of a slope per metre.
        hip: whether the ends slope too; otherwise they are gables.
    """
    reach = max(np.hypot(abs(du) + width / 2, abs(dv) + depth / 2) for du, dv, width, depth in parts)
    window, u, v = world.axes(x, y, float(reach) + 0.5, angle)
    top = np.full(u.shape, -1, np.float32)
    for du, dv, width, depth in parts:
        to_side = width / 2 - np.abs(u - du)
        to_front = depth / 2 - np.abs(v - dv)
        edge = np.minimum(to_side, to_front)
        rise = edge if hip else (to_front if width >= depth else to_side)
        top = np.maximum(top, np.where(edge > 0, wall + pitch * rise, -1))
    if label == Label.ROOF:
        boxes = [box(du - w / 2, dv - d / 2, du + w / 2, dv + d / 2) for du, dv, w, d in parts]
        world.footprints.append([world.turned_box(x, y, angle, outline) for outline in boxes])
    courses = world.rng.uniform(0.9, 1.08, 97).astype(np.float32)[(top * 5.5).astype(np.int32) % 97]  # of shingles
    paint = (courses * world.texture(window, 0.07, 0.05, 0.07))[..., None] * colour
    world.put(window, top > 0, paint, label, top)


def add_on_roof(
    world: World, x: float, y: float, angle: float, size: tuple[float, float], colour: Colour, label: int, rise: float
) -> None:
    """Add a rectangle ``rise`` metres above the roof below it."""
    window, u, v = world.axes(x, y, max(size), angle)
    inside = (np.abs(u) < size[0] / 2) & (np.abs(v) < size[1] / 2) & (world.label[window] == Label.ROOF)
    paint = world.texture(window, 0.08, 0.08, 0)[..., None] * colour
    world.put(window, inside, paint, label, world.height[window] + rise)


def add_solar_panels(world: World, x: float, y: float, angle: float) -> None:
    """Add rows of dark panels with pale frames to a roof, of a size that few roofs share."""
    window, u, v = world.axes(x, y, 5, angle)
    across, along = world.rng.uniform(0.75, 1.25), world.rng.uniform(1.2, 1.9)  # of one panel
    half_width, half_depth = across * world.rng.integers(4, 8) / 2, along * world.rng.integers(1, 4) / 2
    inside = (np.abs(u) < half_width) & (np.abs(v) < half_depth) & (world.label[window] == Label.ROOF)
    frame = (np.mod(u + half_width, across) < 0.13) | (np.mod(v + half_depth, along) < 0.13)
    paint = np.where(frame[..., None], rgb(120, 130, 146), rgb(26, 36, 72))
    world.put(
        window, inside, paint * world.texture(window, 0.05, 0.04, 0)[..., None], Label.SOLAR, world.height[window] + 0.2
    )


def add_antenna(world: World, x: float, y: float) -> None:
    """Add a white dish with a dark feed to a roof."""
    window, u, v = world.axes(x, y, 1)
    distance = np.hypot(u, v)
    paint = np.where((np.hypot(u - 0.12, v) < 0.16)[..., None], rgb(80, 80, 80), np.float32(0.9))
    inside = (distance < 0.5) & (world.label[window] == Label.ROOF)
    world.put(window, inside, paint, Label.ANTENNA, world.height[window] + 0.6)


def add_tree(world: World, x: float, y: float, radius: float, colour: Colour, label: int = Label.TREES) -> None:
    """Add a crown of up to fifteen overlapping leafy domes."""
    rng = world.rng
    window, u, v = world.axes(x, y, radius * 1.15)
    if not u.size:
        return
    count = int(np.clip(3.2 * radius, 4, 15))
    offset = radius * 0.66 * np.sqrt(rng.random(count))
    bearing = rng.uniform(0, 2 * np.pi, count)
    domes = (radius * rng.uniform(0.32, 0.5, count)).astype(np.float32)
    centre_u = (offset * np.cos(bearing)).astype(np.float32)
    centre_v = (offset * np.sin(bearing)).astype(np.float32)
    base = 1.3 * radius * (1 - 0.5 * (offset / radius) ** 2) + rng.uniform(-0.25, 0.25, count) * radius
    ragged = 1 + 0.13 * world.grain[window]
    top = np.full(u.shape, -1, np.float32)
    tone = np.ones(u.shape, np.float32)
    for index in range(count):
        dome = domes[index] ** 2 - ragged * ((u - centre_u[index]) ** 2 + (v - centre_v[index]) ** 2)
        surface = np.where(dome > 0, np.float32(base[index]) + np.sqrt(np.maximum(dome, 0)), -1)
        tone[surface > top] = rng.uniform(0.8, 1.2)
        top = np.maximum(top, surface)
    inside = top > 0
    leaves = np.float32(0.2 * min(radius, 2.5))
    top += np.where(inside, leaves * world.grain[window] + 0.12 * world.fine[window], 0)
    paint = (tone * world.texture(window, 0.14, 0.16, 0.1))[..., None] * colour
    world.put(window, inside, np.maximum(paint, 0.002), label, top)


def add_car(world: World, x: float, y: float, angle: float, label: int = Label.VEHICLE) -> None:
    """Add a saloon, or sometimes a pick-up: body, cabin, windscreen and rear window."""
    colour = CARS[world.rng.integers(len(CARS))]
    length = world.rng.uniform(2.2, 2.7)
    window, u, v = world.axes(x, y, 3.2, angle)
    inside = (np.abs(u) / length) ** 4 + (np.abs(v) / 0.98) ** 4 < 1
    cabin = (np.abs(u + 0.25) < 1.25) & (np.abs(v) < 0.82)
    screen = (np.abs(v) < 0.84) & (((u > 0.55) & (u < 1.2)) | ((u > -1.85) & (u < -1.35)))
    if world.chance(0.25):  # a pick-up's bed
        screen |= (u < -0.8) & (np.abs(v) < 0.72) & (u > -length + 0.25)
    paint = np.where(screen[..., None], GLASS, colour)
    paint = paint * world.texture(window, 0.04, 0.03, 0)[..., None]
    world.put(window, inside, paint, label, np.where(cabin, np.float32(1.5), np.float32(1.0)))


def add_boat(world: World, x: float, y: float, angle: float) -> None:
    """Add a white hull with a pointed bow, a deck, a cabin, and a wake."""
    window, u, v = world.axes(x, y, 14, angle)
    wake = (u < -2.5) & (np.abs(np.abs(v) - 0.25 * (-u - 2)) < 0.35) & (world.label[window] == Label.WATER)
    brighter = np.exp(u / 5) * 0.25 * (1 + 0.4 * world.grain[window])
    world.albedo[window] += np.where(wake, brighter, 0)[..., None].astype(np.float32)
    beam = 1.25 * np.clip(1 - ((u - 0.5) / 3.1) ** 4, 0, 1) * np.where(u > 0.5, 1 - (u - 0.5) / 3.0, 1)
    inside = (np.abs(u) < 3.2) & (np.abs(v) < beam)
    deck = (np.abs(u + 0.6) < 1.7) & (np.abs(v) < 0.7)
    cabin = (np.abs(u - 0.1) < 0.55) & (np.abs(v) < 0.6)
    paint = np.where(deck[..., None], rgb(176, 140, 100), rgb(240, 240, 238))
    paint = np.where(cabin[..., None], GLASS, paint)
    world.put(window, inside, paint, Label.BOAT, np.where(cabin, np.float32(1.6), np.float32(0.8)))


def add_pool(world: World, x: float, y: float, size: float, angle: float) -> None:
    """Add a kidney or rectangle of clear water with a pale coping and a paved deck."""
    rng = world.rng
    window, u, v = world.axes(x, y, size * 1.6 + 2, angle)
    if world.chance(0.6):
        lobe = rng.uniform(0.5, 0.8) * size
        first = np.hypot((u + 0.45 * size) / 0.95, v) - 0.62 * size
        second = np.hypot(u - 0.5 * size, v - 0.2 * size) - 0.62 * lobe
        edge = np.minimum(np.minimum(first, second), np.hypot(u / 1.9, v) - 0.42 * size)
    else:
        edge = np.maximum(np.abs(u) - size, np.abs(v) - 0.52 * size)
    stone = rng.uniform(0.75, 1.1)
    world.put(
        window,
        edge < 1.1,
        world.texture(window, 0.05, 0.07, 0.04)[..., None] * stone * rgb(198, 172, 146),
        Label.BACKGROUND,
        0.0,
    )
    coping = np.broadcast_to(rgb(222, 214, 204), (*edge.shape, 3))
    world.put(window, edge < 0.35, coping, Label.BACKGROUND, 0.0)
    depth = np.clip(-edge / (0.5 * size), 0, 1)[..., None]
    caustics = (1 + 0.1 * np.abs(world.grain[window]) + 0.05 * world.fine[window])[..., None]
    shallow, deep = rgb(132, 214, 222), rgb(40, rng.uniform(128, 158), rng.uniform(176, 200))
    world.put(window, edge < 0, (shallow + (deep - shallow) * depth) * caustics, Label.POOL, 0.0)


def add_trampoline(world: World, x: float, y: float) -> None:
    """Add a dark round mat with a coloured rim."""
    window, u, v = world.axes(x, y, 2.4)
    distance = np.hypot(u, v)
    rim = rgb(44, 86, 178) if world.chance(0.6) else rgb(52, 140, 84)
    paint = np.where((distance > 1.55)[..., None], rim, rgb(38, 38, 42))
    world.put(window, distance < 2.0, paint * world.texture(window, 0.06, 0.05, 0)[..., None], Label.TRAMPOLINE, 0.9)


def add_pole_shadow(world: World, x: float, y: float, tall: float) -> None:
    """Darken the ground in the thin shadow of a mast.

    It is drawn, since in the height map the arm of a mast would be a wall.
    """
    away = world.look.azimuth + np.pi - world.slope(x)
    reach = tall / float(np.tan(world.look.elevation))
    window, u, v = world.axes(x, y, reach, away)
    shaded = (u > 0) & (u < reach) & (np.abs(v) < 0.13)
    world.albedo[window] *= np.where(shaded, 0.45, 1)[..., None].astype(np.float32)


def add_street_light(world: World, x: float, y: float, angle: float) -> None:
    """Add a mast with an arm that reaches over the road and a bright lamp at its end."""
    window, u, v = world.axes(x, y, 3.6, angle)
    arm = (u > -0.25) & (u < 2.9) & (np.abs(v) < 0.2)
    lamp = (np.abs(u - 2.7) < 0.5) & (np.abs(v) < 0.34)
    paint = np.where(lamp[..., None], rgb(236, 236, 230), rgb(150, 152, 154))
    add_pole_shadow(world, x, y, 6.5)
    world.put(window, arm | lamp, paint, Label.STREET_LIGHT, 1.2)


def add_bins(world: World, x: float, y: float) -> None:
    """Add two or three wheeled bins in a row at the kerb."""
    colours = (rgb(34, 62, 44), rgb(36, 38, 40), rgb(42, 70, 128))
    for index in range(int(world.rng.integers(2, 4))):
        window, u, v = world.axes(
            x + 1.05 * index, y + world.rng.uniform(-0.15, 0.15), 0.9, world.rng.uniform(-0.2, 0.2)
        )
        inside = (np.abs(u) < 0.45) & (np.abs(v) < 0.5)
        paint = np.where((v < -0.28)[..., None], np.float32(0.02), np.float32(colours[index]))
        world.put(window, inside, paint, Label.BINS, 1.1)


def add_tank(world: World, x: float, y: float, radius: float) -> None:
    """Add a white cylinder with a low cone, seams and a rusty edge."""
    window, u, v = world.axes(x, y, radius + 0.5)
    distance = np.hypot(u, v)
    seams = (np.mod(np.arctan2(v, u) * 6 / np.pi, 1) < 0.06) | (np.abs(distance - 0.6 * radius) < 0.1)
    paint = np.where(seams[..., None], rgb(168, 160, 150), rgb(216, 214, 208))
    paint = np.where((distance > radius - 0.35)[..., None], rgb(150, 112, 86), paint)
    paint = paint * world.texture(window, 0.03, 0.03, 0.05)[..., None]
    world.put(window, distance < radius, paint, Label.TANK, 6 + 0.18 * (radius - distance))


def add_fence(world: World, points: tuple[tuple[float, float], tuple[float, float]]) -> None:
    """Add a board fence between two points."""
    (x0, y0), (x1, y1) = points
    dx, dy = (0.0, 0.11) if abs(x1 - x0) > abs(y1 - y0) else (0.11, 0.0)
    ring = [(x0 - dx, y0 - dy), (x1 - dx, y1 - dy), (x1 + dx, y1 + dy), (x0 + dx, y0 + dy)]
    world.area(ring, FENCE, Label.BACKGROUND, (0.12, 0.1, 0.05), top=1.4)
