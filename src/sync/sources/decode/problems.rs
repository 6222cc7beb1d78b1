//! Collecting what is wrong with an object, field by field.

use std::fmt;

use crate::sync::objects::{FieldProblem, Reason, Seldom};

use super::lenient::{Field, Shape};

/// An object with 5,000 bad endpoints is one mistake, not 5,000 messages.
const MOST: usize = 16;

/// The problems of one object.
#[derive(Default)]
pub struct Problems {
    found: Vec<FieldProblem>,
    left_out: usize,
}

impl Problems {
    pub fn add(&mut self, field: impl fmt::Display, message: impl Into<String>) {
        if self.found.len() == MOST {
            self.left_out += 1;
            return;
        }
        self.found.push(FieldProblem {
            field: field.to_string(),
            reason: Reason::Malformed,
            message: message.into(),
        });
    }

    /// The value of a field, with a problem noted where something else stands there.
    pub fn take<'de, T: Shape<'de>>(&mut self, path: impl fmt::Display, field: Field<T>) -> Option<T> {
        match field {
            Field::Given(value) => Some(value),
            Field::Absent => None,
            Field::Wrong(found) => {
                self.add(path, format!("{found} is not {}", T::NAME));
                None
            }
        }
    }

    /// The items of a list that have the right shape, each with its index.
    pub fn items<'de, T: Shape<'de>>(
        &mut self,
        path: impl fmt::Display,
        list: Field<Vec<Field<T>>>,
    ) -> Vec<(usize, T)> {
        let list = self.take(&path, list).unwrap_or_default();
        let indexed = list.into_iter().enumerate();
        indexed.filter_map(|(i, item)| Some((i, self.take(format_args!("{path}[{i}]"), item)?))).collect()
    }

    /// Notes the error of reading `text`, if it is one.
    pub fn check<T>(&mut self, path: impl fmt::Display, read: Result<T, String>) -> Option<T> {
        read.map_err(|message| self.add(path, message)).ok()
    }

    pub fn into_list(mut self) -> Seldom<FieldProblem> {
        if self.left_out > 0 {
            self.found.push(FieldProblem {
                field: String::new(),
                reason: Reason::Malformed,
                message: format!("and {} more fields", self.left_out),
            });
        }
        self.found.into_boxed_slice().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_of_one_object_are_bounded() {
        let mut problems = Problems::default();
        for i in 0..5000 {
            problems.add(format_args!("endpoints[{i}]"), "no address");
        }
        let problems = problems.into_list();
        assert_eq!(problems.len(), MOST + 1);
        assert_eq!(problems[MOST].message, "and 4984 more fields");
    }
}
