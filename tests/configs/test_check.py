from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, model_validator

from graftwork.configs import Config, ConfigError, validate


class MLP(Config):
    kind: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = (64,)


class LSTM(Config):
    kind: Literal["lstm"] = "lstm"
    inner: "Encoder" = MLP()
    size: int = Field(5, gt=0)


Encoder = Annotated[MLP | LSTM, Field(discriminator="kind")]
LSTM.model_rebuild()


class Linear(Config):
    kind: Literal["linear"] = "linear"
    start: float


class Aid(Config):
    strength: float = 1.0


class DQN(Config):
    kind: Literal["dqn"] = "dqn"
    discount: float = Field(0.99, ge=0, le=1)
    double: bool = True
    epsilon: float | Linear = 0.1
    batch: int | Literal["auto"] = 32
    burn_in: int = 0
    sequence: int = 3
    encoder: Encoder = MLP()
    aid: Aid | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.burn_in >= self.sequence:
            raise ValueError(f"burn_in must be under sequence={self.sequence}, got {self.burn_in}")
        return self


class Reinforce(Config):
    kind: Literal["reinforce"] = "reinforce"
    baseline: Literal["none", "value"] = "none"


class Env(Config):
    id: str
    observe: tuple[int, ...] | None = None
    num_envs: int = 1


class Head(Config):
    loss: Literal["squared", "huber"] = "squared"
    weight: float = Field(1.0, ge=0)
    encoder: Encoder = MLP()


class Run(Config):
    env: Env = Env(id="CartPole-v1")
    agent: Annotated[DQN | Reinforce, Field(discriminator="kind")]
    tracker: Literal["none", "wandb"] = "none"
    seed: int = 0
    stages: tuple[Encoder, ...] = ()
    heads: dict[str, Head] = Field(default_factory=dict)
    parts: dict[str, Encoder] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _lucky(self) -> Self:
        if self.seed == 13:
            raise ValueError("seed 13 is unlucky")
        return self


def nested(path, value):
    """`nested("agent.discount", 2)` is a DQN run's tree with that value, every mapping on the way an LSTM or a DQN."""
    tree = {"agent": {"kind": "dqn", "encoder": {"kind": "lstm", "inner": {"kind": "lstm"}}}}
    *folders, last = path.split(".")
    inner = tree
    for folder in folders:
        inner = inner.setdefault(folder, {})
    inner[last] = value
    return tree


def test_valid_tree_becomes_the_model():
    run = validate(Run, nested("agent.encoder.inner.size", 7))
    assert run.agent.encoder.inner.size == 7


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("agent.discont", 0.9, "agent.discont=0.9: unknown field; did you mean agent.discount?"),
        ("agent.discount", 1.5, "agent.discount=1.5: must be less than or equal to 1"),
        ("agent.discount", "high", "agent.discount=high: must be a number"),
        ("agent.discount", float("inf"), "agent.discount=.inf: must be a finite number"),
        ("agent.kind", "dqm", "agent.kind=dqm: must be one of 'dqn', 'reinforce'; did you mean dqn?"),
        ("agent.kind", 3, "agent.kind=3: must be one of 'dqn', 'reinforce'"),
        ("agent.double", 7, "agent.double=7: must be true or false"),
        ("agent.burn_in", 3, "agent: burn_in must be under sequence=3, got 3"),
        (
            "agent.encoder.inner.sise",
            5,
            "agent.encoder.inner.sise=5: unknown field; did you mean agent.encoder.inner.size?",
        ),
        ("agent.encoder.inner.size", 0, "agent.encoder.inner.size=0: must be greater than 0"),
        ("agent.encoder.inner.size", 1.5, "agent.encoder.inner.size=1.5: must be an integer"),
        ("stages", [{}], "stages.0.kind: required, but missing; must be one of 'mlp', 'lstm'"),
        ("agent.encoder.inner.q.r", 5, "agent.encoder.inner.q={r: 5}: unknown field; allowed: inner, kind, size"),
        ("agent.encoder", {"kind": "mlp", "hidden": [3, "x"]}, "agent.encoder.hidden.1=x: must be an integer"),
        ("agent.encoder", {"kind": "mlp", "hidden": 3}, "agent.encoder.hidden=3: must be a list"),
        ("agent.encoder", 3, "agent.encoder=3: must be a mapping of fields"),
        (
            "agent.encoder",
            "lstm",
            "agent.encoder=lstm: must be a mapping of fields; did you mean agent.encoder.kind=lstm?",
        ),
        ("agent.epsilon", "x", "agent.epsilon=x: must be a number or a mapping of fields"),
        ("agent.epsilon", {"kind": "linear"}, "agent.epsilon.start: required, but missing"),
        (
            "agent.epsilon.strt",
            1.0,
            "agent.epsilon.strt=1.0: unknown field; did you mean agent.epsilon.start? (and 1 more)",
        ),
        ("agent.batch", "aut", "agent.batch=aut: must be an integer or 'auto'; did you mean auto?"),
        ("env.num_env", 5, "env.num_env=5: unknown field; did you mean env.num_envs? (and 1 more)"),
        ("env", {}, "env.id: required, but missing"),
        ("env.id", 3, "env.id=3: must be text"),
        ("tracker", "wanbd", "tracker=wanbd: must be 'none' or 'wandb'; did you mean wandb?"),
        ("discount", 0.9, "discount=0.9: unknown field; did you mean agent.discount?"),
        ("agent.num_envs", 2, "agent.num_envs=2: unknown field; did you mean env.num_envs?"),
        ("agnet.discount", 0.9, "agnet={discount: 0.9}: unknown field; did you mean agent?"),
        ("agent.encoder", {"size": 5}, "agent.encoder.size=5: unknown field; agent.encoder.kind=lstm has it"),
        (
            "agent.encoder",
            {"kind": "mlp", "inner": 5},
            "agent.encoder.inner=5: unknown field; agent.encoder.kind=lstm has it",
        ),
        ("agent.baseline", "value", "agent.baseline=value: unknown field; agent.kind=reinforce has it"),
        ("agent.aid", True, "agent.aid=true: must be a mapping of fields, {} for its defaults or null for none"),
        ("seed", None, "seed=null: must be an integer"),
        ("seed", 13, "seed 13 is unlucky"),
        (
            "stages",
            [{"kind": "mlp"}, {"kind": "lstn"}],
            "stages.1.kind=lstn: must be one of 'mlp', 'lstm'; did you mean lstm?",
        ),
        ("heads.hand.los", "huber", "heads.hand.los=huber: unknown field; did you mean heads.hand.loss?"),
        ("heads.hand.zzz", 1, "heads.hand.zzz=1: unknown field; allowed: encoder, loss, weight"),
        (
            "heads.hand.loss",
            "hubr",
            "heads.hand.loss=hubr: must be 'squared' or 'huber'; did you mean huber?",
        ),
        ("heads.hand.weight", -1, "heads.hand.weight=-1: must be greater than or equal to 0"),
        ("heads.hand", 3, "heads.hand=3: must be a mapping of fields"),
        ("heads", 3, "heads=3: must be a mapping of fields"),
        ("weight", 2, "weight=2: unknown field; allowed: agent, env, heads, parts, seed, stages, tracker"),
        (
            "heads.hand.encoder.kind",
            "lstn",
            "heads.hand.encoder.kind=lstn: must be one of 'mlp', 'lstm'; did you mean lstm?",
        ),
        ("parts.image.kind", "lstn", "parts.image.kind=lstn: must be one of 'mlp', 'lstm'; did you mean lstm?"),
        (
            "parts.image",
            {"size": 3},
            "parts.image.kind: required, but missing; must be one of 'mlp', 'lstm'",
        ),
        (
            "parts.image",
            "lstm",
            "parts.image=lstm: must be a mapping of fields; did you mean parts.image.kind=lstm?",
        ),
        (
            "parts.seed",  # an entry named like a field
            {"kind": "lstm", "inner": {"kind": "mlp"}, "sise": 5},
            "parts.seed.sise=5: unknown field; did you mean parts.seed.size?",
        ),
        (
            "parts.kind",  # or like the one that chooses a model
            {"kind": "mlp", "sise": 5},
            "parts.kind.sise=5: unknown field; allowed: hidden, kind",
        ),
    ],
)
def test_message_names_the_field_the_value_and_what_is_allowed(path, value, message):
    with pytest.raises(ConfigError) as error:
        validate(Run, nested(path, value))
    assert str(error.value) == message


def test_message_counts_the_other_problems_and_names_the_source():
    tree = {"agent": {"kind": "dqn", "discount": 2, "discont": 3}, "seed": "x"}
    with pytest.raises(ConfigError) as error:
        validate(Run, tree, "my.yaml")
    expected = "agent.discont=3: unknown field; did you mean agent.discount? (in my.yaml, and 2 more)"
    assert str(error.value) == expected


class Rates(Config):
    rate: float | Linear = Linear(start=0.5)
    encoder: Encoder = LSTM(inner=MLP(hidden=(7,)), size=3)


def test_fields_without_a_kind_change_the_default():
    assert validate(Rates, {"encoder": {"size": 9}}) == Rates(encoder=LSTM(inner=MLP(hidden=(7,)), size=9))
    assert validate(Rates, {"encoder": {"inner": {"kind": "lstm"}}}) == Rates(encoder=LSTM(inner=LSTM(), size=3))
    assert validate(Rates, {"rate": {}, "encoder": {}}) == Rates()


def test_fields_with_a_kind_stand_alone():
    assert validate(Rates, {"encoder": {"kind": "lstm"}}) == Rates(encoder=LSTM())
    with pytest.raises(ConfigError, match=r"^rate\.start: required, but missing$"):
        validate(Rates, {"rate": {"kind": "linear"}})


def test_missing_agent_is_named():
    with pytest.raises(ConfigError, match=r"^agent: required, but missing \(in a\.yaml\)$"):
        validate(Run, {}, "a.yaml")


def test_name_that_belongs_into_an_entry_is_found_there():
    tree = {"agent": {"kind": "dqn"}, "heads": {"hand": {}, "foot": {"wieght": 2}}, "loss": "huber"}
    with pytest.raises(ConfigError) as error:
        validate(Run, {**tree, "heads": {"hand": {}}})
    assert str(error.value) == "loss=huber: unknown field; did you mean heads.hand.loss?"
    with pytest.raises(ConfigError) as error:
        validate(Run, {key: value for key, value in tree.items() if key != "loss"})
    assert str(error.value) == "heads.foot.wieght=2: unknown field; did you mean heads.foot.weight?"
