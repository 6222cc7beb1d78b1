//! Lists that are empty for nearly all objects.

use std::fmt;
use std::ops::Deref;

/// Of many thousand objects nearly none has any of these: an empty list is one pointer.
#[derive(Clone, PartialEq, Eq)]
pub struct Seldom<T>(Option<Box<Box<[T]>>>);

impl<T> Deref for Seldom<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_deref().map_or(&[], |list| list)
    }
}

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Seldom(None)
    }
}

impl<T> From<Box<[T]>> for Seldom<T> {
    fn from(list: Box<[T]>) -> Self {
        Seldom((!list.is_empty()).then(|| Box::new(list)))
    }
}

impl<T, const N: usize> From<[T; N]> for Seldom<T> {
    fn from(list: [T; N]) -> Self {
        Box::<[T]>::from(list).into()
    }
}

impl<T> FromIterator<T> for Seldom<T> {
    fn from_iter<I: IntoIterator<Item = T>>(list: I) -> Self {
        list.into_iter().collect::<Box<[T]>>().into()
    }
}

impl<T: fmt::Debug> fmt::Debug for Seldom<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&**self).finish()
    }
}
