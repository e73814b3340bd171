"""What a set of protocol files says on the wire, as comparable facts."""

from google.protobuf.descriptor import Descriptor, FileDescriptor


def describe(files: list[FileDescriptor]) -> dict[str, str]:
    """Full name of a field, enum value or method → number and type."""
    facts: dict[str, str] = {}

    def message(descriptor: Descriptor) -> None:
        for field in descriptor.fields:
            kind = field.message_type or field.enum_type
            facts[field.full_name] = (
                f"{field.number} type {field.type} {kind.full_name if kind else ''} repeated {field.is_repeated}"
                f" oneof {field.containing_oneof.name if field.containing_oneof else ''}"
            )
        for nested in descriptor.nested_types:
            message(nested)
        for enum in descriptor.enum_types:
            facts.update({f"{enum.full_name}.{value.name}": str(value.number) for value in enum.values})

    for file in files:
        for descriptor in file.message_types_by_name.values():
            message(descriptor)
        for enum in file.enum_types_by_name.values():
            facts.update({f"{enum.full_name}.{value.name}": str(value.number) for value in enum.values})
        for service in file.services_by_name.values():
            for method in service.methods:
                facts[method.full_name] = (
                    f"{method.input_type.full_name} → {method.output_type.full_name} "
                    f"streams {method.client_streaming} {method.server_streaming}"
                )
    return facts
