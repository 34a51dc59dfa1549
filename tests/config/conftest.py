"""A small world of settings: a room with lamps, some of which need more settings than others."""

import importlib
import sys
from pathlib import Path
from textwrap import dedent

import pytest

FILES = {
    "lamp_base.py": """
        from pydantic import Field
        from gptwright.config.slot import Component, ComponentConfig

        class Lamp(Component):
            class Config(ComponentConfig):
                watts: int = Field(default=40, ge=1, le=500)
                '''Power, in watts.'''
    """,
    "lamps/__init__.py": "",
    "lamps/bulb.py": """
        from lamp_base import Lamp

        class Bulb(Lamp):
            '''A round one.'''
            class Config(Lamp.Config):
                shade: str | None = None
                '''Colour of the shade.'''
    """,
    "lamps/tube.py": """
        from pydantic import PositiveInt
        from lamp_base import Lamp

        class Tube(Lamp):
            '''A long one.'''
            class Config(Lamp.Config):
                length: PositiveInt
                '''Length, in cm.'''
                ends: tuple[str, str] = ("white", "white")
                '''Colours of the two ends.'''
    """,
    "lamps/chain.py": """
        from typing import Annotated
        from pydantic import Field
        from gptwright.config.slot import Slot
        from lamp_base import Lamp

        class Chain(Lamp):
            '''Many small ones.'''
            class Config(Lamp.Config):
                each: Annotated[
                    Lamp.Config, Slot("lamp", package="lamps", base="lamp_base:Lamp")
                ] = Field("bulb", validate_default=True)
                '''The lamp that is repeated.'''
    """,
    "room.py": """
        from typing import Annotated, Literal
        from pydantic import Field, PositiveInt, model_validator
        from gptwright.config.base import Config
        from gptwright.config.slot import Slot
        from lamp_base import Lamp

        LampSlot = Annotated[Lamp.Config, Slot("lamp", package="lamps", base="lamp_base:Lamp")]

        class Corner(Config):
            lamp: LampSlot | None = None
            '''Its lamp.'''

        class Size(Config):
            width: PositiveInt
            '''Width of the floor, in cm.'''
            height: float = 2.5
            '''Height, in metres.'''

        class Room(Config):
            name: str = "hall"
            '''What it is called.'''
            size: Size | None = None
            '''How large it is.'''
            lamp: LampSlot = Field("bulb", validate_default=True)
            '''What lights it.'''
            corners: dict[str, Corner] = Field(default_factory=dict)
            '''Corners by name.'''
            order: list[str] = Field(default_factory=list)
            '''Corners from the door on.'''
            colours: tuple[str, ...] = ()
            '''Colours of the walls.'''
            style: Literal["plain", "ornate"] = "plain"
            '''How it looks.'''
            doors: int | Literal["auto"] = "auto"
            '''How many doors.'''
            heated: bool = False
            '''Whether it is warm.'''

            @model_validator(mode="after")
            def _check(self):
                if self.name == "cellar" and self.heated:
                    raise ValueError("a cellar cannot be heated; choose another name or heated: false")
                return self
    """,
}


@pytest.fixture(scope="session", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory):
    """Write the modules of `FILES` and make them importable."""
    folder = tmp_path_factory.mktemp("world")
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(dedent(text))
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def room(world):
    """Return the root settings class."""
    return importlib.import_module("room").Room


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write files into the current folder, which is empty at first."""
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, text: str) -> str:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text).lstrip("\n"), encoding="utf-8")
        return name

    return write_file
