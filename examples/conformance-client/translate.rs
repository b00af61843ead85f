//! Trees of the cases to queries.

use std::error::Error;

use datasync::query::{BinaryOp, Expr, Function, Literal, OrderBy, QueryDescription};
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The query of a tree.
pub(crate) fn query(tree: &Value) -> Result<QueryDescription> {
    if !tree.is_object() {
        return Err("a query tree is an object".into());
    }
    let mut query = QueryDescription::default();
    if let Some(node) = given(tree, "where") {
        query.filter = Some(expr(node)?);
    }
    for key in list(tree, "orderby") {
        let field = text(key.get("field").ok_or("only properties give an order")?)?;
        query.order.push(OrderBy { field, descending: key.get("desc").and_then(Value::as_bool).unwrap_or(false) });
    }
    query.select = list(tree, "select").iter().map(text).collect::<Result<_>>()?;
    query.skip = given(tree, "skip").map(whole).transpose()?.unwrap_or(0);
    query.top = given(tree, "top").map(whole).transpose()?;
    query.count = tree.get("count").and_then(Value::as_bool).unwrap_or(false);
    query.include_deleted = tree.get("includeDeleted").and_then(Value::as_bool).unwrap_or(false);
    for (name, value) in tree.get("params").and_then(Value::as_object).into_iter().flatten() {
        query = query.with_parameter(name, &text(value)?)?;
    }
    Ok(query)
}

fn given<'v>(tree: &'v Value, name: &str) -> Option<&'v Value> {
    tree.get(name).filter(|value| !value.is_null())
}

fn list<'v>(tree: &'v Value, name: &str) -> &'v [Value] {
    tree.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        other => Err(format!("`{other}` is not a text").into()),
    }
}

fn whole(value: &Value) -> Result<u64> {
    Ok(text(value)?.parse().map_err(|_| format!("`{value}` is not a whole number from 0"))?)
}

fn expr(node: &Value) -> Result<Expr> {
    if let Some(field) = node.get("field") {
        return Ok(Expr::Field(text(field)?));
    }
    let arguments = list(node, "args");
    if let Some(name) = node.get("fn").and_then(Value::as_str) {
        let function = Function::ALL.into_iter().find(|function| function.name() == name);
        let function = function.ok_or_else(|| format!("there is no function `{name}`"))?;
        let arguments = arguments.iter().map(expr).collect::<Result<Vec<_>>>()?;
        let (least, most) = function.arity();
        if !(least..=most).contains(&arguments.len()) {
            return Err(format!("`{name}` takes {least} to {most} arguments").into());
        }
        return Ok(Expr::Call(function, arguments));
    }
    match (node.get("op").and_then(Value::as_str), arguments) {
        (Some("not"), [inner]) => Ok(Expr::Not(Box::new(expr(inner)?))),
        (Some("in"), [operand, values]) => {
            let values = values.get("lit").and_then(Value::as_array).ok_or("`in` takes a list of constants")?;
            let values = values.iter().map(|value| text(value).map(Literal::Text)).collect::<Result<_>>()?;
            Ok(Expr::In(Box::new(expr(operand)?), values))
        }
        (Some(name), [left, right]) => {
            let op = BinaryOp::ALL.into_iter().find(|op| op.keyword() == name);
            let op = op.ok_or_else(|| format!("there is no operator `{name}`"))?;
            Ok(Expr::binary(op, expr(left)?, expr(right)?))
        }
        (Some(name), _) => Err(format!("`{name}` does not take {} operands", arguments.len()).into()),
        (None, _) => match (node.get("lit"), node.get("type").and_then(Value::as_str)) {
            (Some(value), Some(kind)) => Ok(Expr::Literal(literal(value, kind)?)),
            _ => Err("a node is a field, a constant, an operator or a function".into()),
        },
    }
}

/// The constant of a value and the name of its type, in .NET's words or in Rust's.
pub(crate) fn literal(value: &Value, kind: &str) -> Result<Literal> {
    if value.is_null() {
        return Ok(Literal::Null);
    }
    let text = text(value)?;
    let wrong = |_| format!("`{text}` is not of the type `{kind}`");
    Ok(match kind {
        "bool" => Literal::Bool(text.parse().map_err(|_| wrong(()))?),
        "int" | "byte" | "sbyte" | "short" | "ushort" | "u8" | "i8" | "i16" | "u16" | "i32" => {
            Literal::Int(text.parse().map_err(|_| wrong(()))?)
        }
        "long" | "ulong" | "uint" | "i64" | "u64" | "u32" => Literal::Long(text.parse().map_err(|_| wrong(()))?),
        "float" | "f32" => Literal::Single(text.parse().map_err(|_| wrong(()))?),
        "double" | "f64" => Literal::Double(text.parse().map_err(|_| wrong(()))?),
        "decimal" => {
            text.parse::<f64>().map_err(|_| wrong(()))?;
            Literal::Decimal(text)
        }
        "string" | "char" | "enum" => Literal::Text(text),
        "date" => Literal::Date(text.parse().map_err(|_| wrong(()))?),
        "time" => Literal::Time(text.parse().map_err(|_| wrong(()))?),
        "datetime" | "datetimeoffset" => Literal::Timestamp(text.parse().map_err(|_| wrong(()))?),
        "guid" => Literal::Uuid(text.parse().map_err(|_| wrong(()))?),
        other => return Err(format!("there is no type `{other}`").into()),
    })
}
