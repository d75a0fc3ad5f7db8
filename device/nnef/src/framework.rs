//! Reading, which is refused.

use tract_core::internal::*;

use crate::ser::{IntoAst, RValue};

/// A reader, and the operators it was told of.
#[derive(Debug, Default)]
pub struct Nnef {
    /// The operators.
    pub registries: Vec<Registry>,
}

/// Writes an operator.
pub type Dump<O> = fn(&mut IntoAst<'_>, &TypedNode, &O) -> TractResult<Option<Arc<RValue>>>;
/// Reads an operator.
pub type Load = fn(&mut ModelBuilder<'_>, &ResolvedInvocation<'_>) -> TractResult<Value>;

/// Operators, of which nothing is kept.
#[derive(Debug, Default)]
pub struct Registry;

impl Registry {
    /// Returns one.
    pub fn new(_id: impl AsRef<str>) -> Self {
        Self
    }

    /// Returns itself.
    #[must_use]
    pub fn with_doc(self, _doc: impl Into<String>) -> Self {
        self
    }

    /// Forgets how an operator is written.
    pub fn register_dumper<O: TypedOp>(&mut self, _dump: Dump<O>) {}

    /// Forgets how an operator is read.
    pub fn register_primitive(
        &mut self,
        _id: impl AsRef<str>,
        _parameters: &[Parameter],
        _results: &[(&str, Parameter)],
        _load: Load,
    ) {
    }
}

/// A kind of parameter.
#[derive(Debug, Clone, Copy)]
pub enum TypeName {
    /// Of any kind.
    Any,
    /// A whole number.
    Integer,
    /// A number.
    Scalar,
    /// A truth.
    Logical,
    /// A text.
    String,
}

impl TypeName {
    /// Returns a parameter.
    pub fn tensor(self) -> Parameter {
        Parameter
    }

    /// Returns a parameter.
    pub fn array(self) -> Parameter {
        Parameter
    }

    /// Returns a parameter.
    pub fn named(self, _name: impl AsRef<str>) -> Parameter {
        Parameter
    }
}

/// A parameter, of which nothing is kept.
#[derive(Debug, Clone)]
pub struct Parameter;

impl Parameter {
    /// Returns itself.
    #[must_use]
    pub fn named(self, _name: impl AsRef<str>) -> Self {
        self
    }

    /// Returns itself.
    #[must_use]
    pub fn default<T>(self, _value: T) -> Self {
        self
    }
}

/// A name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identifier(pub String);

impl From<&str> for Identifier {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// A model that is read.
#[derive(Debug)]
pub struct ModelBuilder<'a> {
    /// What was read of it.
    pub model: &'a mut TypedModel,
}

/// What is read of an operator.
#[derive(Debug)]
pub struct Value;

impl ModelBuilder<'_> {
    /// Refuses an operator.
    ///
    /// # Errors
    ///
    /// Always.
    pub fn wire(&mut self, _op: impl Into<Box<dyn TypedOp>>, _inputs: &[OutletId]) -> TractResult<Value> {
        refuse()
    }
}

/// An operator as it is written in a file.
#[derive(Debug)]
pub struct Invocation {
    /// Its name.
    pub id: Identifier,
}

/// An operator and its attributes.
#[derive(Debug)]
pub struct ResolvedInvocation<'a> {
    /// The operator.
    pub invocation: &'a Invocation,
}

impl ResolvedInvocation<'_> {
    /// Refuses an attribute.
    ///
    /// # Errors
    ///
    /// Always.
    pub fn named_arg_as<T>(&self, _builder: &mut ModelBuilder<'_>, _name: &str) -> TractResult<T> {
        refuse()
    }

    /// Refuses an attribute that may be left out.
    ///
    /// # Errors
    ///
    /// Always.
    pub fn get_named_arg_as<T>(&self, _builder: &mut ModelBuilder<'_>, _name: &str) -> TractResult<Option<T>> {
        refuse()
    }

    /// Refuses an attribute that may be left out.
    ///
    /// # Errors
    ///
    /// Always.
    pub fn optional_named_arg_as<T>(&self, _builder: &mut ModelBuilder<'_>, _name: &str) -> TractResult<Option<T>> {
        refuse()
    }
}

fn refuse<T>() -> TractResult<T> {
    bail!("expected a model in ONNX, found one in NNEF, which this program does not read; convert it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_refused() {
        let mut builder = ModelBuilder { model: &mut TypedModel::default() };
        let resolved = ResolvedInvocation { invocation: &Invocation { id: "tract_onnx_lrn".into() } };
        let refusals = [
            resolved.named_arg_as::<f32>(&mut builder, "alpha").err(),
            resolved.get_named_arg_as::<f32>(&mut builder, "alpha").err(),
            resolved.optional_named_arg_as::<f32>(&mut builder, "alpha").err(),
            builder.wire(tract_core::ops::identity::Identity, &[]).err(),
        ];
        for refusal in refusals {
            assert!(refusal.unwrap().to_string().contains("found one in NNEF"));
        }
    }
}
