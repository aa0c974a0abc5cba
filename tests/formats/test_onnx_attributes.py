from __future__ import annotations

import pytest
from onnx import TensorProto, defs, helper

from bnfold.formats.onnx.attributes import EVERYWHERE, TYPES, has_attributes_of_its_types


@pytest.mark.parametrize("name", EVERYWHERE)
def test_an_attribute_that_is_known_by_its_name_is_of_one_type_in_the_whole_standard(name: str) -> None:
    schemas = [schema for schema in defs.get_all_schemas_with_history() if not schema.domain]
    declared = {TYPES[schema.attributes[name].type] for schema in schemas if name in schema.attributes}
    assert declared == {EVERYWHERE[name]}


@pytest.mark.parametrize(
    ("operator", "opset", "attribute", "is_of_its_type"),
    [
        pytest.param("Concat", 17, ("axis", 1), True, id="known by its name"),
        pytest.param("Concat", 17, ("axis", 1.0), False, id="of another type"),
        pytest.param("Relu", 17, ("axis", 1.0), True, id="declared by others alone"),
        pytest.param("Cast", 17, ("to", TensorProto.FLOAT), True, id="of this opset"),
        pytest.param("Cast", 1, ("to", TensorProto.FLOAT), False, id="of another opset"),
        pytest.param("Pad", 2, ("value", 0.0), True, id="of this operator"),
        pytest.param("Constant", 17, ("value", 0.0), False, id="of another operator"),
        pytest.param("Unheard", 17, ("to", 1.0), True, id="an operator that nobody knows"),
    ],
)
def test_the_type_of_an_attribute_is_judged(
    operator: str, opset: int, attribute: tuple[str, float], *, is_of_its_type: bool
) -> None:
    node = helper.make_node(operator, ["x"], ["y"])
    node.attribute.append(helper.make_attribute(*attribute))
    assert has_attributes_of_its_types(node, opset) is is_of_its_type


def test_an_attribute_that_the_callers_of_a_function_set_has_no_value() -> None:
    node = helper.make_node("Concat", ["x"], ["y"], axis=1)
    node.attribute[0].ref_attr_name = "axis"
    assert not has_attributes_of_its_types(node, 17)
