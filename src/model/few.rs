//! Lists of which nearly all have one item.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// A list of which the only item, as most have one, is no piece of memory of its own.
#[derive(Clone)]
pub struct Few<T>(Form<T>);

#[derive(Clone)]
enum Form<T> {
    One(T),
    Other(Box<[T]>),
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Form::One(item) => std::slice::from_ref(item),
            Form::Other(items) => items,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Form::One(item) => std::slice::from_mut(item),
            Form::Other(items) => items,
        }
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Few(Form::Other(Box::default()))
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut items = items.into_iter();
        match (items.next(), items.next()) {
            (Some(only), None) => Few(Form::One(only)),
            (first, second) => Few(Form::Other(first.into_iter().chain(second).chain(items).collect())),
        }
    }
}

impl<T, const N: usize> From<[T; N]> for Few<T> {
    fn from(items: [T; N]) -> Self {
        items.into_iter().collect()
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(items: Vec<T>) -> Self {
        items.into_iter().collect()
    }
}

impl<T: Clone> From<&[T]> for Few<T> {
    fn from(items: &[T]) -> Self {
        items.iter().cloned().collect()
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for Few<T> {}

impl<T: fmt::Debug> fmt::Debug for Few<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&**self).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held_memory::held;

    #[test]
    fn only_a_list_of_several_is_a_piece_of_memory() {
        for count in 0..4 {
            let before = held();
            let mut list: Few<u32> = (0..count).collect();
            assert_eq!(held() > before, count > 1, "{count}");
            assert!(list.iter().copied().eq(0..count) && list == list.clone());
            list.iter_mut().for_each(|item| *item += 1);
            assert!(list.iter().copied().eq(1..=count), "{list:?}");
        }
        assert_eq!(size_of::<Few<std::net::IpAddr>>(), 24);
    }
}
