//! Writing, of which nothing is kept.

use tract_core::internal::*;

/// A model that is written.
#[derive(Debug)]
pub struct IntoAst<'a> {
    /// The model.
    pub model: &'a TypedModel,
    /// What stands for each value.
    pub mapping: HashMap<OutletId, Arc<RValue>>,
}

impl IntoAst<'_> {
    /// Returns what stands for a constant.
    ///
    /// # Errors
    ///
    /// Never.
    pub fn konst_variable(&mut self, _name: impl AsRef<str>, _value: &Arc<Tensor>) -> TractResult<Arc<RValue>> {
        Ok(Arc::new(RValue))
    }
}

/// What stands for a value.
#[derive(Debug, Clone)]
pub struct RValue;

/// Returns what stands for an operator.
pub fn invocation(_id: impl AsRef<str>, _inputs: &[Arc<RValue>], _attributes: &[(&str, RValue)]) -> Arc<RValue> {
    Arc::new(RValue)
}

/// Returns what stands for a number.
pub fn numeric<T: std::fmt::Debug>(_value: T) -> RValue {
    RValue
}

/// Returns what stands for a truth.
pub fn logical(_value: bool) -> RValue {
    RValue
}

/// Returns what stands for a text.
pub fn string(_value: impl AsRef<str>) -> RValue {
    RValue
}

/// Returns what stands for values in a row.
pub fn array(_items: impl AsRef<[RValue]>) -> RValue {
    RValue
}

/// Returns what stands for dimensions.
pub fn tdims(_dims: &[TDim]) -> RValue {
    RValue
}
