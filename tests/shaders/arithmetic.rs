//! The activations of the shaders themselves, in the arithmetic of devices that no test machine has: naga's module is
//! evaluated step by step. One keeps subnormal numbers, another's exp never reaches 0, or is as inaccurate as WGSL
//! lets it be.
//!
//! Values are single lanes: everything these functions do, they do to each component alone.

use crate::common::activations::{self, Arithmetic, Element, Expected};
use crate::{parse, translate};
use naga::{
    Arena, BinaryOperator as Op, Block, Expression, Function, Handle, Literal, LocalVariable,
    MathFunction, Module, ScalarKind, Statement, TypeInner, UnaryOperator,
};
use std::collections::HashMap;
use wgnorm::DType;
use wgnorm::plan::{Access, Kernel, Overrides};

/// How a device calculates where WGSL leaves it a choice.
#[derive(Clone, Copy)]
struct Device {
    name: &'static str,
    /// Whether subnormal numbers become 0 in arithmetic.
    flushes: bool,
    exp: fn(f32) -> f32,
}

const DEVICES: [Device; 6] = [
    Device { name: "keeps subnormal numbers", flushes: false, exp: |x| wide_exp(x) as f32 },
    Device { name: "flushes subnormal numbers", flushes: true, exp: |x| wide_exp(x) as f32 },
    // As SwiftShader's, before its processor flushes the result.
    Device {
        name: "exp stops at 2^-127",
        flushes: false,
        exp: |x| wide_exp(x).max(5.878e-39) as f32,
    },
    Device { name: "exp is as high as it may be", flushes: false, exp: |x| bent_exp(x, 1.0) },
    Device { name: "exp is as low as it may be", flushes: true, exp: |x| bent_exp(x, -1.0) },
    Device {
        name: "exp loses NaN",
        flushes: true,
        exp: |x| if x.is_nan() { 0.0 } else { wide_exp(x) as f32 },
    },
];

fn wide_exp(x: f32) -> f64 {
    f64::from(x).exp()
}

/// Off by 3 + 2|x| ULP.
fn bent_exp(x: f32, by: f64) -> f32 {
    (wide_exp(x) * (1.0 + by * f64::from(3.0 + 2.0 * x.abs().min(200.0)) * 2f64.powi(-24))) as f32
}

#[derive(Clone, Debug)]
enum Value {
    F32(f32),
    U32(u32),
    I32(i32),
    Bool(bool),
    Struct(Vec<Value>),
}
use Value::{Bool, F32, I32, U32};

/// A call of a function.
struct Call<'a> {
    module: &'a Module,
    function: &'a Function,
    device: Device,
    /// What is read from the task: the slope of a leaky ReLU.
    slope: f32,
    arguments: Vec<Value>,
    locals: HashMap<Handle<LocalVariable>, Value>,
    results: HashMap<Handle<Expression>, Value>,
}

impl Call<'_> {
    fn run(mut self) -> Value {
        for (handle, local) in self.function.local_variables.iter() {
            if let Some(init) = local.init {
                let init = self.value(init);
                self.locals.insert(handle, init);
            }
        }
        self.block(&self.function.body).expect("it returns a value")
    }

    /// What is returned on the way.
    fn block(&mut self, block: &Block) -> Option<Value> {
        for statement in block.iter() {
            match statement {
                Statement::Emit(range) => {
                    for handle in range.clone() {
                        let value = self.evaluate(&self.function.expressions, handle);
                        self.results.insert(handle, value);
                    }
                }
                Statement::Block(inner) => {
                    if let Some(value) = self.block(inner) {
                        return Some(value);
                    }
                }
                Statement::If { condition, accept, reject } => {
                    let Bool(taken) = self.value(*condition) else { panic!("a condition") };
                    if let Some(value) = self.block(if taken { accept } else { reject }) {
                        return Some(value);
                    }
                }
                Statement::Store { pointer, value } => {
                    let Expression::LocalVariable(local) = self.function.expressions[*pointer]
                    else {
                        panic!("whole variables are stored")
                    };
                    let value = self.value(*value);
                    self.locals.insert(local, value);
                }
                Statement::Call { function, arguments, result } => {
                    let call = Call {
                        function: &self.module.functions[*function],
                        arguments: arguments.iter().map(|&a| self.value(a)).collect(),
                        locals: HashMap::new(),
                        results: HashMap::new(),
                        ..*self
                    };
                    let value = call.run();
                    self.results.insert(result.expect("it returns a value"), value);
                }
                Statement::Return { value } => return value.map(|value| self.value(value)),
                other => panic!("no rule for {other:?}"),
            }
        }
        None
    }

    /// The value of an expression that was evaluated, or that needs no evaluation.
    fn value(&self, handle: Handle<Expression>) -> Value {
        match self.results.get(&handle) {
            Some(value) => value.clone(),
            None => self.evaluate(&self.function.expressions, handle),
        }
    }

    fn evaluate(&self, from: &Arena<Expression>, handle: Handle<Expression>) -> Value {
        let of = |handle| match self.results.get(&handle) {
            Some(value) if std::ptr::eq(from, &self.function.expressions) => value.clone(),
            _ => self.evaluate(from, handle),
        };
        match &from[handle] {
            Expression::Literal(Literal::F32(v)) => F32(*v),
            Expression::Literal(Literal::U32(v)) => U32(*v),
            Expression::Literal(Literal::I32(v)) => I32(*v),
            Expression::Literal(Literal::Bool(v)) => Bool(*v),
            Expression::Constant(constant) => {
                let constant = &self.module.constants[*constant];
                self.evaluate(&self.module.global_expressions, constant.init)
            }
            Expression::Compose { ty, components } => match self.module.types[*ty].inner {
                TypeInner::Struct { .. } => {
                    Value::Struct(components.iter().map(|&c| of(c)).collect())
                }
                _ => of(components[0]),
            },
            Expression::Splat { value, .. } => of(*value),
            Expression::FunctionArgument(i) => self.arguments[*i as usize].clone(),
            Expression::AccessIndex { base, index } => match of(*base) {
                Value::Struct(members) => members[*index as usize].clone(),
                whole => whole,
            },
            Expression::LocalVariable(local) => self.locals[local].clone(),
            Expression::GlobalVariable(_) => F32(self.slope),
            Expression::Load { pointer } => of(*pointer),
            Expression::Unary { op, expr } => match (op, of(*expr)) {
                (UnaryOperator::Negate, F32(v)) => F32(-v),
                (UnaryOperator::LogicalNot, Bool(v)) => Bool(!v),
                other => panic!("no rule for {other:?}"),
            },
            Expression::Binary { op, left, right } => self.binary(*op, of(*left), of(*right)),
            Expression::Select { condition, accept, reject } => match of(*condition) {
                Bool(true) => of(*accept),
                Bool(false) => of(*reject),
                other => panic!("{other:?} is no condition"),
            },
            Expression::Math { fun, arg, arg1, .. } => {
                let number = |handle| match of(handle) {
                    F32(v) => self.flushed(v),
                    other => panic!("no rule for {fun:?} of {other:?}"),
                };
                let (a, b) = (number(*arg), arg1.map(number));
                F32(self.flushed(match (fun, b) {
                    (MathFunction::Abs, None) => a.abs(),
                    (MathFunction::Exp, None) => (self.device.exp)(a),
                    // Rust's min gives the number where the other operand is NaN, as WGSL allows.
                    (MathFunction::Min, Some(b)) => a.min(b),
                    (MathFunction::Max, Some(b)) => a.max(b),
                    other => panic!("no rule for {other:?}"),
                }))
            }
            Expression::As { expr, kind, convert: None } => {
                let bits = match of(*expr) {
                    F32(v) => v.to_bits(),
                    U32(v) => v,
                    I32(v) => v.cast_unsigned(),
                    other => panic!("no bits of {other:?}"),
                };
                match kind {
                    ScalarKind::Float => F32(f32::from_bits(bits)),
                    ScalarKind::Uint => U32(bits),
                    ScalarKind::Sint => I32(bits.cast_signed()),
                    other => panic!("no bits of {other:?}"),
                }
            }
            other => panic!("no rule for {other:?}"),
        }
    }

    fn flushed(&self, v: f32) -> f32 {
        if self.device.flushes && v.is_subnormal() { 0f32.copysign(v) } else { v }
    }

    fn binary(&self, op: Op, left: Value, right: Value) -> Value {
        fn ordered<T: PartialOrd>(op: Op, a: T, b: T) -> Option<Value> {
            Some(Bool(match op {
                Op::Equal => a == b,
                Op::NotEqual => a != b,
                Op::Less => a < b,
                Op::LessEqual => a <= b,
                Op::Greater => a > b,
                Op::GreaterEqual => a >= b,
                _ => return None,
            }))
        }
        let result = match (&left, &right) {
            (F32(a), F32(b)) => {
                let (a, b) = (self.flushed(*a), self.flushed(*b));
                let number = match op {
                    Op::Add => Some(a + b),
                    Op::Subtract => Some(a - b),
                    Op::Multiply => Some(a * b),
                    Op::Divide => Some(a / b),
                    _ => None,
                };
                number.map(|v| F32(self.flushed(v))).or_else(|| ordered(op, a, b))
            }
            (U32(a), U32(b)) => match op {
                Op::And => Some(U32(a & b)),
                Op::InclusiveOr => Some(U32(a | b)),
                _ => ordered(op, a, b),
            },
            (I32(a), I32(b)) => ordered(op, a, b),
            (Bool(a), Bool(b)) => match op {
                Op::And | Op::LogicalAnd => Some(Bool(a & b)),
                Op::InclusiveOr | Op::LogicalOr => Some(Bool(a | b)),
                _ => None,
            },
            _ => None,
        };
        result.unwrap_or_else(|| panic!("no rule for {left:?} {op:?} {right:?}"))
    }
}

/// y and the gradient of each element, by the functions of a kernel's shader.
fn evaluate(source: &str, device: Device, expected: &Expected) -> Vec<(f64, f64)> {
    let (code, slope) = match expected.activation {
        wgnorm::Activation::LeakyRelu(slope) => (2, slope),
        wgnorm::Activation::Relu => (1, 0.0),
        wgnorm::Activation::Silu => (3, 0.0),
        wgnorm::Activation::Gelu => (4, 0.0),
        wgnorm::Activation::GeluTanh => (5, 0.0),
        wgnorm::Activation::Tanh => (6, 0.0),
        wgnorm::Activation::Sigmoid => (7, 0.0),
        other => panic!("{other:?} is not known"),
    };
    // Both functions, reached from one entry point.
    let source = format!(
        "{source} @compute @workgroup_size(1) fn reach() {{
            _ = chain(activate(vec4(task.scalars.x)), vec4(task.scalars.y)); }}"
    );
    let module = parse(&source);
    let info = translate::validate(&module).expect("a valid module");
    let overrides = Overrides { activation: code, ..Overrides::default() };
    let constants = Kernel::NormRow.constants(&Overrides { wg: 1, rows: 1, tile: 1, ..overrides });
    let (module, _) =
        translate::specialize(&module, &info, "reach", &constants).expect("it has its constants");
    let call = |name: &str, arguments: Vec<Value>| {
        let named = |f: &&Function| f.name.as_deref() == Some(name);
        let function = module.functions.iter().map(|(_, f)| f).find(named).expect("the function");
        let (locals, results) = (HashMap::new(), HashMap::new());
        let call = Call { module: &module, function, device, slope, arguments, locals, results };
        match call.run() {
            F32(v) => f64::from(v),
            other => panic!("{name} returns {other:?}"),
        }
    };
    let both =
        |e: &Element| (call("activate", vec![F32(e.v)]), call("chain", vec![F32(e.v), F32(e.dy)]));
    expected.elements.iter().map(both).collect()
}

#[test]
fn activations_hold_in_any_arithmetic() {
    let source = Kernel::NormRow.source(Access::F32x1);
    for expected in activations::all() {
        for device in DEVICES {
            let results = evaluate(&source, device, &expected);
            let compared = expected.compare(Arithmetic::F32, DType::F32, results);
            assert_eq!(compared, Ok(()), "{}", device.name);
        }
    }
}

/// Shaders with the faults that this test is for.
#[test]
fn a_fault_in_some_arithmetic_is_seen() {
    let source = Kernel::NormRow.source(Access::F32x1);
    let wrong = |name: &str, from: &str, to: &str| {
        assert!(source.contains(from), "the shader has no {from:?}");
        let source = source.replace(from, to);
        let expected = activations::all().into_iter().find(|e| e.name == name).expect("a name");
        let sees = |device| {
            let results = evaluate(&source, device, &expected);
            expected.compare(Arithmetic::F32, DType::F32, results).is_err()
        };
        assert!(DEVICES.into_iter().any(sees), "{name} with {to:?}");
    };
    // The clamp ends where exp is not 0 yet.
    wrong("silu", "vec4(150.0)", "vec4(88.0)");
    wrong("gelu", "vec4(17.0)", "vec4(13.0)");
    wrong("gelu_tanh", "vec4(12.0)", "vec4(7.0)");
    // v itself meets the factor that is 0.
    wrong("silu", "select(v - below, -below", "select(v * at.p, v * at.h * at.h * at.p");
    // 0 loses its sign.
    wrong(
        "silu",
        "select(v - below, -below, negative(v))",
        "select(-below, v - below, positive(v))",
    );
    // NaN is lost; infinity times 0 has a value.
    wrong("tanh", "none | (magnitude_bits(v) > vec4(0x7f800000u))", "none");
    wrong("gelu", "== vec4(0xff800000u)", "== vec4(0x7fc00000u)");
    // A product in place of a choice.
    wrong(
        "relu",
        "select(dy, vec4(0.0), not_above_zero(v))",
        "dy * select(vec4(1.0), vec4(0.0), not_above_zero(v))",
    );
}
