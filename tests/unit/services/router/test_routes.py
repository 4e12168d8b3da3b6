import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.router.language import prompt_language
from services.router.models import Defaults, Model
from services.router.routes import Choice, ModelState, RouteSettings, Wanted, choose_model
from services.shared.errors import ModelNotFound

KNOWN = (
    Model("coder", ("main",), 32_768), Model("small", (), 16_384), Model("eyes", (), 32_768),
    Model("glm-4.7", (), 131_072),
)  # fmt: skip
DEFAULTS = Defaults("coder", {"title": "small"})
ROUTES = RouteSettings(
    fallbacks={"coder": ("glm-4.7",)}, languages={"zh": "glm-4.7"}, long_answers="glm-4.7", long_answer_tokens=40_000
)


def choose(
    requested: str = "auto", request_class: str = "main", *, down: str = "", slow: dict[str, float] | None = None,
    routes: RouteSettings = ROUTES, **wanted: object,
) -> Choice:  # fmt: skip
    def state_of(name: str) -> ModelState:
        model = next(model for model in KNOWN if model.name == name)
        return ModelState(
            is_live=name not in down.split(), sees_images=name in {"eyes", "glm-4.7"}, ignores_tools=name == "small",
            context_length=model.context_length, first_token_seconds=(slow or {}).get(name, 0.0),
        )  # fmt: skip

    return choose_model(Wanted(requested, request_class, **wanted), KNOWN, state_of, DEFAULTS, routes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choice", "model", "reasons"),
    [
        pytest.param(choose("small"), "small", ("asked for",), id="a name"),
        pytest.param(choose("main"), "coder", ("alias main",), id="an alias"),
        pytest.param(choose(""), "coder", ("default",), id="no name"),
        pytest.param(choose("auto", "title"), "small", ("class title",), id="the class"),
        pytest.param(choose("coder", "title"), "coder", ("asked for",), id="a name beats the class"),
        pytest.param(
            choose("auto", "title", down="small"), "coder", ("default", "small does not run"), id="class model down"
        ),
        pytest.param(
            choose("coder", down="coder"), "glm-4.7", ("fallback of coder", "coder does not run"), id="a fallback"
        ),
        pytest.param(choose("small", down="small"), "small", ("asked for", "small does not run"), id="no fallback"),
        pytest.param(choose(has_images=True).model, "eyes", None, id="images"),
        pytest.param(
            choose(has_images=True, routes=RouteSettings(vision="glm-4.7")), "glm-4.7", ("images",), id="vision model"
        ),
        pytest.param(choose(language="zh"), "glm-4.7", ("language zh",), id="language"),
        pytest.param(choose(max_tokens=50_000), "glm-4.7", ("long answer",), id="long answer"),
        pytest.param(choose(max_tokens=32_000), "coder", ("default",), id="what agents always ask for"),
    ],
)
def test_the_model_and_the_reasons(choice: Choice | str, model: str, reasons: tuple[str, ...] | None) -> None:
    if isinstance(choice, str):
        assert choice == model
    else:
        assert (choice.model, choice.reasons) == (model, reasons)


def test_a_prompt_that_is_too_long_goes_to_a_model_that_holds_it() -> None:
    without_fallbacks = RouteSettings()
    assert choose(prompt_token_count=90_000, routes=without_fallbacks).model == "glm-4.7"
    assert choose("coder", prompt_token_count=90_000).model == "glm-4.7"
    assert choose("coder", prompt_token_count=90_000, routes=without_fallbacks).model == "coder"


def test_an_estimate_a_little_over_the_limit_is_left_to_the_worker() -> None:
    assert choose("coder", prompt_token_count=34_000).model == "coder"


def test_a_model_is_left_for_another_that_answers_much_sooner() -> None:
    assert choose("auto", "title", slow={"small": 90, "coder": 5}).reasons[-1] == "85 s sooner than small"
    assert choose("auto", "title", slow={"small": 12, "coder": 5}).model == "small"
    assert choose("small", "title", slow={"small": 90, "coder": 5}).model == "small"


def test_a_fallback_is_for_need_not_for_speed() -> None:
    assert choose(slow={"coder": 300}).model == "coder"


def test_nothing_that_runs_means_the_default() -> None:
    assert choose("auto", "title", down="small coder glm-4.7").model == "coder"


def test_tools_go_to_a_model_that_takes_them() -> None:
    choice = choose("auto", "title", has_tools=True)
    assert (choice.model, choice.reasons) == ("coder", ("default", "small takes no tools"))
    assert choose("small", has_tools=True).reasons == ("asked for", "small takes no tools")
    assert choose("small", has_tools=True, routes=RouteSettings(fallbacks={"small": ("coder",)})).model == "coder"


def test_what_the_default_never_can_any_other_model_may() -> None:
    def state_of(name: str) -> ModelState:
        return ModelState(ignores_tools=name != "eyes")

    choice = choose_model(Wanted("auto", "main", has_tools=True), KNOWN, state_of, DEFAULTS, RouteSettings())
    assert (choice.model, choice.reasons[0]) == ("eyes", "can answer")


def test_a_default_that_starts_again_is_awaited() -> None:
    assert choose(down="coder", routes=RouteSettings()).model == "coder"


def test_fallbacks_stand_in_for_fallbacks_without_going_round() -> None:
    routes = RouteSettings(fallbacks={"coder": ("eyes",), "eyes": ("glm-4.7", "coder")})
    choice = choose("coder", down="coder eyes", routes=routes)
    assert (choice.model, choice.reasons[0]) == ("glm-4.7", "fallback of eyes")
    assert [one.model for one in choice.considered] == ["glm-4.7", "coder", "eyes"]


def test_a_fallback_may_be_told_by_aliases() -> None:
    assert choose("coder", down="coder", routes=RouteSettings(fallbacks={"main": ("eyes",)})).model == "eyes"


def test_everything_that_was_considered_says_why_and_what_is_in_the_way() -> None:
    considered = choose("auto", "title", down="coder", language="zh", has_tools=True).considered
    assert [(one.model, one.reason, one.obstacle) for one in considered] == [
        ("glm-4.7", "language zh", ""),
        ("small", "class title", "small takes no tools"),
        ("coder", "default", "coder does not run"),
    ]


def test_how_much_an_estimate_may_exceed_is_a_setting() -> None:
    strict = RouteSettings(fallbacks={"coder": ("glm-4.7",)}, length_margin=1)
    assert choose("coder", prompt_token_count=34_000, routes=strict).model == "glm-4.7"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ModelNotFound):
        choose("gpt-5")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Why does `main.py` fail?", ""), ("为什么测试失败了?", "zh"), ("なぜテストが失敗しますか", "ja"),
        ("테스트가 왜 실패하나요", "ko"), ("Почему тест падает в main.py?", "ru"), ("", ""),
        ("The word 中 occurs in this long English sentence.", ""),
    ],
)  # fmt: skip
def test_a_script_tells_the_language(text: str, language: str) -> None:
    message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=text)])
    assert prompt_language(pb.ChatPrompt(messages=[message]), least_share=0.2) == language


def test_how_much_of_a_message_tells_its_language_is_a_setting() -> None:
    message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text="In main.py: 测试失败")])
    chat = pb.ChatPrompt(messages=[message])
    assert [prompt_language(chat, least_share=share) for share in (0.2, 0.5)] == ["zh", ""]
