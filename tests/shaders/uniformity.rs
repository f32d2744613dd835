//! The barrier guard. naga accepts a barrier that only some lanes of a workgroup reach; browsers
//! refuse the module. This analysis is coarser than theirs (WGSL 15.2): what it accepts, they accept.
//!
//! A value *varies* when it may differ between the lanes of a workgroup. Overrides, constants,
//! uniforms, read-only storage and the workgroup's own builtins do not vary; a local variable does
//! once anything varying was stored to it anywhere, or anything at all where only some lanes go.

use naga::{
    AddressSpace, Arena, Binding, Block, BuiltIn, Expression, Function, Handle, LocalVariable,
    Module, Statement, StorageAccess,
};
use std::collections::{HashMap, HashSet};

/// Every barrier of the module's entry points that some lanes may miss.
pub fn faults(module: &Module) -> Vec<String> {
    module
        .entry_points
        .iter()
        .flat_map(|entry| {
            let arguments = entry.function.arguments.iter().map(|argument| {
                !matches!(
                    argument.binding,
                    Some(Binding::BuiltIn(
                        BuiltIn::WorkGroupId | BuiltIn::NumWorkGroups | BuiltIn::WorkGroupSize
                    ))
                )
            });
            run(module, &entry.function, arguments.collect(), false).faults
        })
        .collect()
}

/// What a call does.
struct Outcome {
    /// Whether the returned value varies.
    varies: bool,
    faults: Vec<String>,
}

/// Follows a function, called with arguments that vary or not, by all lanes or (`some`) by some.
/// WGSL has no recursion, so callees are simply followed anew at each call.
fn run(module: &Module, function: &Function, arguments: Vec<bool>, some: bool) -> Outcome {
    let mut walk = Walk {
        module,
        function,
        arguments,
        locals: HashSet::new(),
        results: HashMap::new(),
        returns: false,
        faults: Vec::new(),
    };
    // A later store may make an earlier load vary (loops): repeat until nothing new is found.
    loop {
        let known = walk.known();
        walk.faults.clear();
        walk.block(&function.body, some);
        if walk.known() == known {
            return Outcome { varies: walk.returns, faults: walk.faults };
        }
    }
}

struct Walk<'m> {
    module: &'m Module,
    function: &'m Function,
    arguments: Vec<bool>,
    /// Local variables that vary.
    locals: HashSet<Handle<LocalVariable>>,
    /// Whether the result of each call varies.
    results: HashMap<Handle<Expression>, bool>,
    returns: bool,
    faults: Vec<String>,
}

/// What some lanes, but not all, may have left in a block.
#[derive(Clone, Copy, Default)]
struct Left {
    iteration: bool,
    function: bool,
}

impl Left {
    fn and(self, other: Left) -> Left {
        Left {
            iteration: self.iteration | other.iteration,
            function: self.function | other.function,
        }
    }

    fn any(self) -> bool {
        self.iteration || self.function
    }
}

impl Walk<'_> {
    /// How many things are known to vary. Never falls.
    fn known(&self) -> usize {
        self.locals.len() + self.results.values().filter(|varies| **varies).count()
    }

    /// `some`: only some lanes may be here. After a statement that some lanes leave at, that holds
    /// for the rest of the block.
    fn block(&mut self, block: &Block, mut some: bool) -> Left {
        let mut left = Left::default();
        for statement in block {
            left = left.and(self.statement(statement, some));
            some |= left.any();
        }
        left
    }

    fn statement(&mut self, statement: &Statement, some: bool) -> Left {
        match statement {
            Statement::Emit(_) | Statement::MemoryBarrier(_) => Left::default(),
            Statement::Block(block) => self.block(block, some),
            Statement::If { condition, accept, reject } => {
                let some = some | self.varies(*condition);
                self.block(accept, some).and(self.block(reject, some))
            }
            Statement::Switch { selector, cases } => {
                let some = some | self.varies(*selector);
                let left = cases.iter().map(|case| self.block(&case.body, some));
                left.fold(Left::default(), Left::and)
            }
            Statement::Loop { body, continuing, break_if } => {
                let mut some = some;
                loop {
                    let mut left = self.block(body, some);
                    left = left.and(self.block(continuing, some | left.any()));
                    left.iteration |= break_if.is_some_and(|stop| self.varies(stop));
                    if some || !left.any() {
                        // Lanes that left the loop early wait behind it; those that returned do not.
                        return Left { iteration: false, ..left };
                    }
                    // Some lanes are gone by the second iteration.
                    some = true;
                }
            }
            Statement::Break | Statement::Continue => Left { iteration: some, function: false },
            Statement::Return { value } => {
                self.returns |= some || value.is_some_and(|value| self.varies(value));
                Left { iteration: false, function: some }
            }
            Statement::ControlBarrier(_) => {
                self.check("a barrier", some);
                Left::default()
            }
            Statement::WorkGroupUniformLoad { .. } => {
                self.check("workgroupUniformLoad", some);
                Left::default()
            }
            Statement::Store { pointer, value } => {
                if some || self.varies(*value) || self.varies(*pointer) {
                    self.taint(*pointer);
                }
                Left::default()
            }
            Statement::Call { function, arguments, result } => {
                // What a callee does through a pointer is not followed.
                for &argument in arguments {
                    if self.is_pointer(argument) {
                        self.taint(argument);
                    }
                }
                let varying = arguments.iter().map(|argument| self.varies(*argument)).collect();
                let callee = &self.module.functions[*function];
                let outcome = run(self.module, callee, varying, some);
                self.faults.extend(outcome.faults);
                if let Some(result) = result {
                    *self.results.entry(*result).or_default() |= outcome.varies;
                }
                Left::default()
            }
            // What it returns varies, as everything read from memory that others write.
            Statement::Atomic { .. } => Left::default(),
            other => panic!("the barrier guard does not know {other:?}"),
        }
    }

    fn check(&mut self, what: &str, some: bool) {
        if some {
            let name = self.function.name.as_deref().unwrap_or("the entry point");
            self.faults.push(format!("{what} in {name} that some lanes may miss"));
        }
    }

    fn is_pointer(&self, expression: Handle<Expression>) -> bool {
        matches!(
            self.function.expressions[expression],
            Expression::LocalVariable(_)
                | Expression::GlobalVariable(_)
                | Expression::Access { .. }
                | Expression::AccessIndex { .. }
        )
    }

    /// Marks the local variable that a pointer leads to, if it leads to one.
    fn taint(&mut self, pointer: Handle<Expression>) {
        if let Expression::LocalVariable(local) = self.function.expressions[self.root(pointer)] {
            self.locals.insert(local);
        }
    }

    /// What a chain of accesses starts from.
    fn root(&self, mut pointer: Handle<Expression>) -> Handle<Expression> {
        let expressions: &Arena<Expression> = &self.function.expressions;
        while let Expression::Access { base, .. } | Expression::AccessIndex { base, .. } =
            expressions[pointer]
        {
            pointer = base;
        }
        pointer
    }

    fn varies(&self, expression: Handle<Expression>) -> bool {
        match self.function.expressions[expression] {
            Expression::Literal(_)
            | Expression::Constant(_)
            | Expression::Override(_)
            | Expression::ZeroValue(_)
            | Expression::GlobalVariable(_)
            | Expression::LocalVariable(_)
            | Expression::ArrayLength(_) => false,
            Expression::FunctionArgument(i) => self.arguments[i as usize],
            Expression::CallResult(_) => self.results.get(&expression).copied().unwrap_or(false),
            Expression::Load { pointer } => self.memory_varies(pointer) || self.varies(pointer),
            Expression::Compose { ref components, .. } => {
                components.iter().any(|component| self.varies(*component))
            }
            Expression::Access { base, index } => self.varies(base) || self.varies(index),
            Expression::AccessIndex { base, .. } => self.varies(base),
            Expression::Splat { value, .. } => self.varies(value),
            Expression::Swizzle { vector, .. } => self.varies(vector),
            Expression::Unary { expr, .. } | Expression::As { expr, .. } => self.varies(expr),
            Expression::Binary { left, right, .. } => self.varies(left) || self.varies(right),
            Expression::Select { condition, accept, reject } => {
                [condition, accept, reject].into_iter().any(|part| self.varies(part))
            }
            Expression::Relational { argument, .. } => self.varies(argument),
            Expression::Math { arg, arg1, arg2, arg3, .. } => {
                [Some(arg), arg1, arg2, arg3].into_iter().flatten().any(|part| self.varies(part))
            }
            // workgroupUniformLoad is made for this. All else: subgroups, atomics.
            Expression::WorkGroupUniformLoadResult { .. } => false,
            _ => true,
        }
    }

    /// Whether lanes that load from the same address may see different values.
    fn memory_varies(&self, pointer: Handle<Expression>) -> bool {
        match self.function.expressions[self.root(pointer)] {
            Expression::LocalVariable(local) => self.locals.contains(&local),
            Expression::GlobalVariable(global) => {
                match self.module.global_variables[global].space {
                    AddressSpace::Uniform => false,
                    AddressSpace::Storage { access } => access.contains(StorageAccess::STORE),
                    _ => true,
                }
            }
            _ => true,
        }
    }
}
