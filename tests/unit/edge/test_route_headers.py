from edge.answer import Answer
from edge.route_headers import route_headers
from localcode.inference.v1 import inference_pb2 as pb
from tests.fakes.inference import admitted


def test_the_decision_is_told_in_plain_characters() -> None:
    answer = Answer("c", created=1)
    assert route_headers(answer) == {}
    routed = pb.Routed(model="coder", reasons=["main: tools", "alias größte\r\n"])
    assert list(answer.add(0, pb.GenerateResponse(routed=routed))) == []
    expected = {"x-localcode-model": "coder", "x-localcode-route": "main: tools; alias gr??te??"}
    assert route_headers(answer) == expected
    list(answer.add(0, admitted(model="glm-4.7")))
    assert route_headers(answer)["x-localcode-model"] == "glm-4.7"
