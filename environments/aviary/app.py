"""Environments of fhaviary: tools and observations are theirs, the reward is the sum of what their steps give."""

from __future__ import annotations

from typing import Any

from aviary.core import Environment as World
from aviary.core import Message as Observation
from aviary.core import TaskDataset, Tool, ToolCall, ToolCallFunction, ToolRequestMessage

from kubegym import Done, Environment, Message, Model, Rollout, Row, ToolError, Turn, Verdict, tool

from .worlds import BUILT_IN

OVER = "The episode is over."


class Aviary(Environment):
    """A task of an fhaviary dataset: ``sums`` and ``locks``, which come with it, or any other that is installed."""

    version = "0.1.0"

    class Config(Model):
        """Settings: ``datasets`` has further datasets by name, each with the arguments of ``TaskDataset.from_name``."""

        datasets: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - configurations are frozen

    class Task(Row):
        """A row: which task of which dataset; without an index whatever the dataset makes next."""

        task_idx: int | None = None
        dataset: str = "sums"

    @classmethod
    def setup(cls, config: Config) -> dict[str, TaskDataset[Any]]:
        """Load the datasets."""
        made = {name: TaskDataset.from_name(name, **arguments) for name, arguments in config.datasets.items()}
        return {**{name: dataset() for name, dataset in BUILT_IN.items()}, **made}

    async def seed(self) -> list[Message]:
        """Make the world and show what it shows first."""
        dataset = self.shared.get(self.task.dataset)
        if dataset is None:
            raise ValueError(f"no dataset {self.task.dataset!r}; there are {', '.join(self.shared)}")
        index = self.task.task_idx
        self.world: World[Any] = dataset.get_new_env() if index is None else dataset.get_new_env_by_idx(index)
        observations, tools = await self.world.reset()
        self.offered_tools = [_definition(one) for one in tools]
        self.total, self.steps, self.over = 0.0, 0, False
        return [Message.user(one.content or "") for one in observations]

    @tool(catch_all=True)
    async def act(self, name: str, arguments: dict[str, Any]) -> str:
        """Let the world answer a call."""
        offered = {one["name"]: one["parameters"] for one in self.offered_tools or ()}
        if name not in offered:
            raise ToolError(f"there is no tool {name!r}")
        missing = set(offered[name].get("required", ())) - arguments.keys()
        if missing or arguments.keys() - offered[name]["properties"].keys():
            raise ToolError(f"{name} takes {', '.join(offered[name]['properties']) or 'nothing'}")
        call = ToolCall(id=f"call_{self.steps}", function=ToolCallFunction(name=name, arguments=arguments))
        return await self._step(ToolRequestMessage(tool_calls=[call]))

    async def respond(self, turn: Turn) -> Message | Done:
        """Let the world answer what was said without a call."""
        return Done() if self.over else Message.user(await self._step(Observation(role="assistant", content=turn.text)))

    async def _step(self, action: Observation) -> str:
        if self.over:
            return OVER
        observations, reward, done, truncated = await self.world.step(action)
        self.total += float(reward)
        self.steps += 1
        self.over = done or truncated
        return "\n".join(one.content or "" for one in observations) or (OVER if self.over else "")

    def verify(self, rollout: Rollout) -> Verdict:
        """The sum of the steps' rewards."""
        return Verdict(self.total, fields={"steps": self.steps, "done": self.over})

    async def close(self) -> None:
        """Close the world."""
        if hasattr(self, "world"):
            await self.world.close()

    @classmethod
    def oracle(cls, task: Task) -> list[Any]:
        """The solution of a world that comes with it."""
        world = BUILT_IN[task.dataset]().get_new_env_by_idx(task.task_idx)
        return [*({"name": name, "arguments": arguments} for name, arguments in world.solution()), "Done."]


def _definition(one: Tool) -> dict[str, Any]:
    """A tool of fhaviary as the contract has it."""
    info = one.info.model_dump(exclude_none=True)
    parameters = {"type": "object", "properties": {}, **info.get("parameters", {}), "additionalProperties": False}
    return {"type": "function", "strict": True, **info, "parameters": parameters}
