"""The catalogue of topics as an AsyncAPI 3 document.

A topic of JSON carries the message's JSON mapping, described as JSON Schema; one of
the binary form carries Protobuf, described by its definition. Everything comes from
`topics` and the messages' descriptors; only the form is decided here.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import yaml
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from trimtab_contracts.sources import Said
from trimtab_contracts.topics import ALL, DEADLETTER, FEATURES, KEYED, Encoding, How, Topic

Json = dict[str, Any]

_BINDING = "0.5.0"
_INTEGERS = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32)
_LONGS = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64)
_FLOATS = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
_WELL_KNOWN: Mapping[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Struct": {"type": "object"},
}


def document(said: Mapping[str, Said]) -> str:
    """Return the document as YAML; `said` has the comments and definitions of the messages."""
    jsons = [
        topic.value.DESCRIPTOR for topic in ALL if topic.value is not None and topic.encoding is Encoding.JSON
    ]
    whole: Json = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Trimtab",
            "version": version("trimtab-contracts"),
            "description": "Every topic of Trimtab. A field that is absent has its type's zero value.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {channel_id(topic): _channel(topic) for topic in ALL},
        "operations": {name: operation for topic in ALL for name, operation in _operations(topic)},
        "components": {
            "messages": {
                **_row_messages(),
                **{name: message for topic in ALL for name, message in _message(topic, said)},
            },
            "schemas": {
                "headers": _headers(),
                **{found.full_name: _schema(found, said) for found in reachable(jsons)},
            },
        },
    }
    return yaml.dump(whole, Dumper=_Plain, sort_keys=False, width=110, allow_unicode=True)


def channel_id(topic: Topic[Any]) -> str:
    """Return the name of a topic's channel; a family is called what its members share."""
    return topic.name.partition(".{")[0]


class _Plain(yaml.SafeDumper):
    """Writes everything out, with no anchors, and text of several lines as it is."""

    def ignore_aliases(self, data: Any) -> bool:
        """Say that nothing is to be referred to."""
        return True


def _text(dumper: _Plain, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _text)


def _channel(topic: Topic[Any]) -> Json:
    settings: Json = dict(topic.config)
    settings["cleanup.policy"] = [settings["cleanup.policy"]]
    settings |= {name: int(value) for name, value in settings.items() if name.endswith(".ms")}
    channel: Json = {
        "address": topic.name,
        "description": f"{topic.about} Key: {topic.key}.",
        "messages": {_message_id(topic): {"$ref": f"#/components/messages/{_message_id(topic)}"}},
    }
    kafka: Json = {"partitions": topic.partitions, "topicConfiguration": settings, "bindingVersion": _BINDING}
    if topic.is_family:
        parameter = topic.name.partition("{")[2].rstrip("}")
        channel["parameters"] = {parameter: {"description": f"Name of a {parameter} that has been applied."}}
    else:
        kafka = {"topic": topic.name} | kafka
    return channel | {"bindings": {"kafka": kafka}}


def _operations(topic: Topic[Any]) -> Iterable[tuple[str, Json]]:
    channel = {"$ref": f"#/channels/{channel_id(topic)}"}
    for who in topic.producers:
        yield f"{who}.sends.{channel_id(topic)}", {"action": "send", "channel": channel}
    for who, how in topic.readers:
        operation: Json = {"action": "receive", "channel": channel, "summary": _HOW[how]}
        if how is How.SHARED and who in DEADLETTER.producers:  # a service: its groups begin with its name
            group = {"type": "string", "pattern": f"^{who}(-[a-z]+)?$"}
            operation["bindings"] = {"kafka": {"groupId": group, "bindingVersion": _BINDING}}
        yield f"{who}.receives.{channel_id(topic)}", operation


_HOW = {
    How.SHARED: "In a consumer group: each record goes to one process.",
    How.EVERYONE: "Without a group: every process reads from the start.",
}


def _message_id(topic: Topic[Any]) -> str:
    if topic.value is not None:
        return str(topic.value.DESCRIPTOR.full_name)
    return "keyed" if topic is KEYED else "row"


def _message(topic: Topic[Any], said: Mapping[str, Said]) -> Iterable[tuple[str, Json]]:
    if topic.value is None:
        return
    name = topic.value.DESCRIPTOR.full_name
    message: Json = {
        "name": name,
        **({"summary": said[name].comment} if said[name].comment else {}),
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{name}"},
    }
    if topic is not FEATURES:  # whose many records carry no header
        own = {"type": "object", "properties": {"ce_type": {"const": name}}}
        message["headers"] = {"allOf": [{"$ref": "#/components/schemas/headers"}, own]}
    if topic.encoding is Encoding.BINARY:
        definition = {
            "schemaFormat": "application/vnd.google.protobuf;version=3",
            "schema": _definition(topic.value.DESCRIPTOR, said),
        }
        message |= {"contentType": "application/protobuf", "payload": definition}
    yield name, message


def _row_messages() -> Json:
    text, time = {"type": "string"}, {"type": "string", "format": "date-time"}
    shared = {
        "ce_specversion": {"const": "1.0"},
        "ce_id": text,
        "ce_source": text,
        "ce_time": time | {"description": "Event time."},
        "ce_origin": text | {"description": "Of a watermark: the input's partition/partitions."},
    }
    row: Json = {"ce_type": {"enum": ["trimtab.row", "trimtab.watermark"]}}
    row["ce_arrivedat"] = time | {
        "description": "When it arrived, where that is not when the broker took it."
    }
    keyed = {"ce_type": {"enum": ["trimtab.keyed", "trimtab.watermark"]}}
    return {
        "row": {
            "name": "row",
            "summary": "A user's row; or a watermark, which has no value.",
            "headers": {"type": "object", "properties": shared | row},
            "payload": {"type": "object", "description": "The fields that the source's data contract has."},
        },
        "keyed": {
            "name": "keyed",
            "summary": "Rows of a view, column by column; or a watermark, which has no value.",
            "headers": {"type": "object", "properties": shared | keyed},
            "payload": {
                "type": "object",
                "description": "The feature store's own: others read its features.",
            },
        },
    }


def _headers() -> Json:
    text: Json = {"type": "string"}
    return {
        "type": "object",
        "description": "CloudEvents attributes (Kafka binding, binary mode) and the W3C trace.",
        "required": ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "content-type"],
        "properties": {
            "ce_specversion": {"const": "1.0"},
            "ce_id": text,
            "ce_type": text,
            "ce_source": text,
            "ce_time": {"type": "string", "format": "date-time"},
            "ce_subject": text,
            "ce_correlationid": {"type": "string", "description": "The loop's id."},
            "content-type": text,
            "traceparent": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
        },
    }


def reachable(messages: Iterable[Descriptor]) -> list[Descriptor]:
    """Return `messages` and all that they hold, each once, without Google's own."""
    found: dict[str, Descriptor] = {}
    waiting = list(messages)
    while waiting:
        message = waiting.pop(0)
        if message.full_name in found or message.full_name in _WELL_KNOWN:
            continue
        if not message.GetOptions().map_entry:
            found[message.full_name] = message
        waiting += [field.message_type for field in message.fields if field.message_type]
    return list(found.values())


def _schema(message: Descriptor, said: Mapping[str, Said]) -> Json:
    schema: Json = {"type": "object"}
    if comment := said[message.full_name].comment:
        schema["description"] = comment
    return schema | {"properties": {field.name: _field(field, said) for field in message.fields}}


def _field(field: FieldDescriptor, said: Mapping[str, Said]) -> Json:
    if field.message_type and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        schema: Json = {"type": "object", "additionalProperties": _value(value)}
    elif field.is_repeated:
        schema = {"type": "array", "items": _value(field)}
    else:
        schema = _value(field)
    comment = said[field.full_name].comment if field.full_name in said else ""
    if not comment:
        return schema
    return ({"allOf": [schema]} if "$ref" in schema else schema) | {"description": comment}


def _value(field: FieldDescriptor) -> Json:
    """Return the schema of one value, as Protobuf's JSON mapping has it."""
    if field.message_type:
        name = field.message_type.full_name
        return dict(_WELL_KNOWN.get(name) or {"$ref": f"#/components/schemas/{name}"})
    if field.enum_type:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    if field.type in _INTEGERS:
        return {"type": "integer", "format": "int32"}
    if field.type in _LONGS:
        return {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}
    if field.type in _FLOATS:
        return {"oneOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
    if field.type == FieldDescriptor.TYPE_BOOL:
        return {"type": "boolean"}
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    if field.type == FieldDescriptor.TYPE_STRING:
        return {"type": "string"}
    raise TypeError(
        f"{field.full_name} is of a type that no message has had so far: say here what JSON makes of it"
    )


def _definition(message: Descriptor, said: Mapping[str, Said]) -> str:
    parts = [said[found.full_name].text for found in reachable([message]) if found.containing_type is None]
    return "\n\n".join(['syntax = "proto3";', f"package {message.file.package};", *parts]) + "\n"
