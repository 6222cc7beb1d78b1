//! Transactions: what is done to one table, all of it or nothing. `Display` is a script for `nft -f`.

use std::fmt;

use super::chain::Chain;
use super::counter::Counter;
use super::element::{Element, Elements};
use super::generation::Generation;
use super::rule::{Handle, Place, Rule};
use super::set::{self, Set};
use super::table::{Name, Ownership, Table};
use super::userdata::Comment;

/// Operations are carried out in order; each sees what those before it did.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    pub table: Table,
    pub operations: Vec<Operation>,
    /// Carried out only if nobody made a transaction since, on whatever table.
    pub after: Option<Generation>,
}

/// Adding what is there already, and is the same, is no error.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    AddTable(Ownership, Option<Comment>),
    /// With everything in it.
    DeleteTable,
    AddChain(Chain),
    /// With its rules. Nothing may lead to it.
    DeleteChain(Name),
    /// Deletes its rules.
    FlushChain(Name),
    AddRule {
        chain: Name,
        rule: Rule,
        place: Place,
    },
    DeleteRule {
        chain: Name,
        handle: Handle,
    },
    AddSet(Set),
    /// With its elements. No rule may name it.
    DeleteSet(Name),
    /// Deletes its elements.
    FlushSet(Name),
    /// An element that is there with other data is an error: delete it first.
    AddElements {
        set: Name,
        elements: Elements,
    },
    /// One that is not there is an error.
    DeleteElements {
        set: Name,
        elements: Elements,
    },
    AddCounter(Counter),
    /// Nothing may name it.
    DeleteCounter(Name),
}

impl Transaction {
    pub fn new(table: &Table) -> Self {
        Transaction { table: table.clone(), operations: Vec::new(), after: None }
    }

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub fn push(&mut self, operation: Operation) -> &mut Self {
        self.operations.push(operation);
        self
    }

    pub fn add_table(&mut self, comment: Option<&str>) -> &mut Self {
        self.push(Operation::AddTable(Ownership::Everybody, comment.map(Comment::new)))
    }

    pub fn delete_table(&mut self) -> &mut Self {
        self.push(Operation::DeleteTable)
    }

    pub fn add_chain(&mut self, chain: Chain) -> &mut Self {
        self.push(Operation::AddChain(chain))
    }

    pub fn delete_chain(&mut self, chain: &Name) -> &mut Self {
        self.push(Operation::DeleteChain(chain.clone()))
    }

    pub fn flush_chain(&mut self, chain: &Name) -> &mut Self {
        self.push(Operation::FlushChain(chain.clone()))
    }

    /// At the end of its chain.
    pub fn add_rule(&mut self, chain: &str, rule: Rule) -> &mut Self {
        self.push(Operation::AddRule { chain: chain.into(), rule, place: Place::End })
    }

    pub fn delete_rule(&mut self, chain: &Name, handle: Handle) -> &mut Self {
        self.push(Operation::DeleteRule { chain: chain.clone(), handle })
    }

    pub fn add_set(&mut self, set: Set) -> &mut Self {
        self.push(Operation::AddSet(set))
    }

    pub fn delete_set(&mut self, set: &Name) -> &mut Self {
        self.push(Operation::DeleteSet(set.clone()))
    }

    pub fn flush_set(&mut self, set: &Name) -> &mut Self {
        self.push(Operation::FlushSet(set.clone()))
    }

    /// Elements of one set after another become one operation.
    pub fn add_element(&mut self, set: &Name, element: &Element) -> &mut Self {
        if let Some(Operation::AddElements { set: last, elements }) = self.operations.last_mut()
            && last == set
        {
            elements.push(element);
            return self;
        }
        let elements = Elements::from_iter([element]);
        self.push(Operation::AddElements { set: set.clone(), elements })
    }

    /// Only the key of the element counts.
    pub fn delete_element(&mut self, set: &Name, element: &Element) -> &mut Self {
        let key = Element { last: element.last, ..Element::of_set(element.key) };
        if let Some(Operation::DeleteElements { set: last, elements }) = self.operations.last_mut()
            && last == set
        {
            elements.push(&key);
            return self;
        }
        let elements = Elements::from_iter([&key]);
        self.push(Operation::DeleteElements { set: set.clone(), elements })
    }

    pub fn add_counter(&mut self, counter: Counter) -> &mut Self {
        self.push(Operation::AddCounter(counter))
    }

    pub fn delete_counter(&mut self, name: &Name) -> &mut Self {
        self.push(Operation::DeleteCounter(name.clone()))
    }
}

/// One line for each operation, one for each element.
impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operations.iter().try_for_each(|operation| write_lines(f, &self.table, operation))
    }
}

fn write_lines(f: &mut fmt::Formatter<'_>, table: &Table, operation: &Operation) -> fmt::Result {
    match operation {
        Operation::AddElements { set, elements } => {
            elements.iter().try_for_each(|element| writeln!(f, "add element {table} {set} {{ {element} }}"))
        }
        Operation::DeleteElements { set, elements } => elements
            .iter()
            .try_for_each(|element| writeln!(f, "delete element {table} {set} {{ {element} }}")),
        single => writeln!(f, "{}", single.of(table)),
    }
}

impl Operation {
    /// The operation as a line of a script.
    pub(super) fn of<'a>(&'a self, table: &'a Table) -> impl fmt::Display + 'a {
        Line { table, operation: self }
    }
}

struct Line<'a> {
    table: &'a Table,
    operation: &'a Operation,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table;
        match self.operation {
            Operation::AddTable(ownership, comment) => write_table(f, table, *ownership, comment.as_ref()),
            Operation::DeleteTable => write!(f, "delete table {table}"),
            Operation::AddChain(chain) => write!(f, "add chain {table} {chain}"),
            Operation::DeleteChain(chain) => write!(f, "delete chain {table} {chain}"),
            Operation::FlushChain(chain) => write!(f, "flush chain {table} {chain}"),
            Operation::AddRule { chain, rule, place } => write_rule(f, table, chain, rule, *place),
            Operation::DeleteRule { chain, handle: Handle(handle) } => {
                write!(f, "delete rule {table} {chain} handle {handle}")
            }
            Operation::AddSet(declared) => {
                f.write_str("add ")?;
                set::write_declaration(f, table, declared)
            }
            Operation::DeleteSet(set) => write!(f, "delete set {table} {set}"),
            Operation::FlushSet(set) => write!(f, "flush set {table} {set}"),
            Operation::AddElements { set, elements } => {
                write!(f, "add {} elements to {table} {set}", elements.len())
            }
            Operation::DeleteElements { set, elements } => {
                write!(f, "delete {} elements from {table} {set}", elements.len())
            }
            Operation::AddCounter(counter) => {
                write!(f, "add counter {table} {}", counter.name)?;
                counter.comment.as_ref().map_or(Ok(()), |comment| write!(f, " {{ {comment} ; }}"))
            }
            Operation::DeleteCounter(name) => write!(f, "delete counter {table} {name}"),
        }
    }
}

fn write_table(
    f: &mut fmt::Formatter<'_>,
    table: &Table,
    ownership: Ownership,
    comment: Option<&Comment>,
) -> fmt::Result {
    write!(f, "add table {table}")?;
    if ownership == Ownership::Socket {
        return f.write_str(" { flags owner ; }");
    }
    comment.map_or(Ok(()), |comment| write!(f, " {{ {comment} ; }}"))
}

fn write_rule(
    f: &mut fmt::Formatter<'_>,
    table: &Table,
    chain: &str,
    rule: &Rule,
    place: Place,
) -> fmt::Result {
    match place {
        Place::End => write!(f, "add rule {table} {chain} {rule}"),
        Place::Start => write!(f, "insert rule {table} {chain} {rule}"),
        Place::Before(Handle(handle)) => write!(f, "insert rule {table} {chain} position {handle} {rule}"),
        Place::After(Handle(handle)) => write!(f, "add rule {table} {chain} position {handle} {rule}"),
        Place::InsteadOf(Handle(handle)) => write!(f, "replace rule {table} {chain} handle {handle} {rule}"),
    }
}
