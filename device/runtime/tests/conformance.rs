//! The conformance suite of `tests/onnx` against what references make of it, on every instruction set of this machine.
//!
//! Integers must be equal to the last; floats within a tolerance. What tract runs too is compared with tract.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use graft_runtime::{EngineChoice, Isa, Network, Picture, RuntimeError};
use prost::Message;
use tract_onnx::pb::ModelProto;

/// What is expected of one file.
struct Case {
    name: &'static str,
    engine: Engine,
    /// Largest error, of the largest number of the outputs.
    tolerance: f32,
    tract: Tract,
}

/// What loads a file.
enum Engine {
    Kernels,
    /// Tract, because of this operator.
    Tract(&'static str),
    /// Nothing, and the message has this in it.
    Refused(&'static str),
}

/// How tract's answer compares with graft's.
enum Tract {
    /// Within the tolerance of floats.
    Agrees,
    /// It rounds some ties to the other of two steps, which are this far apart.
    Steps(f32),
    /// It does not load a sound file.
    Fails,
}

const fn floats(name: &'static str) -> Case {
    Case { name, engine: Engine::Kernels, tolerance: FLOATS, tract: Tract::Agrees }
}

const fn integers(name: &'static str) -> Case {
    Case { name, engine: Engine::Kernels, tolerance: 0.0, tract: Tract::Agrees }
}

const fn in_tract(name: &'static str, because: &'static str) -> Case {
    Case { name, engine: Engine::Tract(because), tolerance: FLOATS, tract: Tract::Agrees }
}

const fn refused(name: &'static str, message: &'static str) -> Case {
    Case { name, engine: Engine::Refused(message), tolerance: 0.0, tract: Tract::Fails }
}

/// Four times what the worst of these networks shows, whose Clip leaves small numbers of larger ones.
const FLOATS: f32 = 1e-5;

const CASES: &[Case] = &[
    // Windows.
    floats("open_batch"),
    floats("auto_pad_upper"),
    floats("auto_pad_lower"),
    floats("auto_pad_valid"),
    floats("dilated_and_lopsided"),
    floats("strides_beyond_the_kernel"),
    floats("large_kernels"),
    floats("tiled"),
    floats("one_pixel"),
    // Its one pixel of three channels is taken for three pixels of one.
    in_tract("one_pixel_of_planes", "Conv"),
    floats("one_channel"),
    floats("four_channels_last"),
    floats("grouped"),
    floats("depthwise_of_two_outputs_a_channel"),
    // Tract counts the inputs that are left out.
    Case { tract: Tract::Fails, ..floats("without_bias") },
    // Pools.
    floats("max_pools"),
    floats("max_pool_ceil"),
    floats("average_pools"),
    floats("average_pool_ceil"),
    in_tract("average_pool_ceil_and_padding_counted", "AveragePool"),
    floats("global_pools"),
    floats("mean_of_axes_as_attribute"),
    // Normalisation and padding.
    floats("batch_norm_after"),
    floats("batch_norm_before"),
    floats("factors_and_terms_by_channel"),
    floats("keras_pads"),
    floats("keras_stem"),
    floats("pad_before_a_function"),
    floats("pad_as_output"),
    in_tract("pad_reflecting", "Pad"),
    refused("pad_that_crops", "cannot load the model into tract"),
    // Preprocessing in the graph.
    floats("bytes_less_their_mean"),
    floats("bytes_rescaled"),
    floats("floats_rescaled"),
    floats("bytes_in_planes"),
    floats("picture_as_output"),
    // Heads. Tract does not count axes from the end.
    Case { tract: Tract::Fails, ..floats("flat_in_every_way") },
    floats("squeeze_of_axes_as_attribute"),
    floats("flat_maps"),
    in_tract("flat_maps_channels_last", "Transpose"),
    floats("keras_head"),
    floats("gemms"),
    floats("gemms_of_alpha_and_beta"),
    floats("softmax_of_logits"),
    in_tract("softmax_over_pixels", "Softmax"),
    // Functions.
    floats("hard_swish"),
    floats("hard_swish_by_hard_sigmoid"),
    floats("hard_swish_by_clip"),
    floats("silu"),
    in_tract("leaky_relu", "LeakyRelu"),
    // Blocks.
    floats("squeeze_and_excite"),
    floats("squeeze_and_excite_of_products"),
    floats("residual_sums"),
    floats("readers_of_a_sum_s_operand"),
    floats("two_outputs"),
    floats("same_output_twice"),
    in_tract("concatenated", "Concat"),
    // How files are written.
    floats("constant_nodes"),
    floats("typed_data"),
    floats("dropout_of_old"),
    floats("dropout"),
    floats("shared_weights"),
    // What only tract runs, or nothing.
    in_tract("lstm", "Squeeze"),
    refused("unknown_operator", "found Mystery"),
    refused("foreign_domain", "found org.example.Relu"),
    // In memory. A test below opens it as a file.
    refused("external_data", "in an external file; export the model as one file"),
    refused("open_sides", "found image float [n, 3, height, width]"),
    refused("two_inputs", "other float [1, 5, 4, 3]"),
    // Integers.
    integers("q_stem"),
    integers("q_stem_of_bytes"),
    integers("q_stem_channels_last"),
    integers("q_one_channel"),
    integers("q_dense"),
    integers("q_dense_signed"),
    integers("q_dense_dilated"),
    integers("q_pointwise"),
    integers("q_one_scale"),
    integers("q_float_bias"),
    integers("q_depthwise_3"),
    integers("q_depthwise_3_by_2"),
    integers("q_depthwise_5"),
    integers("q_depthwise_5_by_2"),
    integers("q_depthwise_dilated"),
    integers("q_grouped"),
    integers("q_extremes"),
    integers("q_ties"),
    integers("q_head"),
    // Its bias, of floats, is rounded to units of the sum.
    Case { tolerance: FLOATS, ..integers("q_head_of_floats") },
    integers("q_head_between_pairs"),
    integers("q_flat_maps"),
    integers("q_sum"),
    integers("q_sum_and_relu"),
    integers("q_sum_unrounded"),
    integers("q_sum_of_depthwise"),
    integers("q_max_pool"),
    integers("q_max_pool_ceil"),
    Case { tract: Tract::Steps(0.0231), ..integers("q_average_pool") },
    Case { tract: Tract::Steps(0.0231), ..integers("q_global_mean") },
    integers("q_squeeze_and_excite"),
    integers("q_sigmoid"),
    integers("q_silu"),
    integers("q_hard_swish"),
    integers("q_hard_swish_of_sums"),
    integers("q_pad"),
    integers("q_typed_data"),
    integers("q_two_readers"),
    integers("q_mixed"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx")
}

/// The byte of a place in the picture, as `net.py` has it.
fn byte(place: u64) -> u8 {
    let mut hashed = (place * 2_654_435_761 + 12_345) & 0xffff_ffff;
    hashed ^= hashed >> 15;
    hashed = (hashed * 0x85eb_ca6b) & 0xffff_ffff;
    (hashed >> 24) as u8
}

/// Returns all numbers of all outputs of the picture that the golden numbers are of.
fn answer(network: &Network) -> Result<Vec<f32>, RuntimeError> {
    let len: usize = network.input().iter().product();
    let bytes: Vec<u8> = (0..len as u64).map(byte).collect();
    let numbers: Vec<f32> = bytes.iter().map(|b| (f32::from(*b) - 128.0) / 64.0).collect();
    let picture = if network.takes_bytes() { Picture::Bytes(&bytes) } else { Picture::Floats(&numbers) };
    let outputs = network.run(picture)?;
    assert_eq!(outputs.len(), network.outputs().len());
    Ok(outputs.concat())
}

/// Checks that numbers are as many and as near as they have to be.
fn check(what: &str, found: &[f32], expected: &[f32], most: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        // Not a number is not near.
        assert!((f - e).abs() <= most, "{what}: {f} and not {e} in place {i}; {most:e} is allowed");
    }
}

fn run(case: &Case) {
    let bytes = fs::read(folder().join(case.name).with_extension("onnx")).unwrap();
    let golden = fs::read(folder().join(case.name).with_extension("f32")).unwrap();
    let (numbers, []) = golden.as_chunks::<4>() else { panic!("{}: a part of a number", case.name) };
    let golden: Vec<f32> = numbers.iter().map(|n| f32::from_le_bytes(*n)).collect();
    let largest = golden.iter().fold(0f32, |m, v| m.max(v.abs()));
    let mut best = Vec::new();
    for isa in Isa::available() {
        let what = format!("{} on {}", case.name, isa.name());
        let network = Network::from_onnx(&bytes, EngineChoice::Kernels(isa));
        let mut network = match (network, &case.engine) {
            (Ok(network), Engine::Kernels) => {
                assert_eq!(network.unrecognised(), None, "{what}");
                network
            }
            (Ok(network), Engine::Tract(because)) => {
                assert_eq!(network.unrecognised(), Some(*because), "{what}");
                network
            }
            (Err(error), Engine::Refused(message)) => {
                assert!(error.to_string().contains(message), "{what}: {error}");
                continue;
            }
            (Ok(_), Engine::Refused(_)) => panic!("{what} is not refused"),
            (Err(error), _) => panic!("{what}: {error}"),
        };
        for threads in [1, 2] {
            network.set_threads(threads);
            best = answer(&network).unwrap_or_else(|e| panic!("{what}: {e}"));
            check(&what, &best, &golden, case.tolerance * largest);
            assert_eq!(answer(&network).unwrap(), best, "{what}: a second run in the same memory");
        }
        // No instruction set changes what tract does.
        if matches!(case.engine, Engine::Tract(_)) {
            break;
        }
    }
    let tract = Network::from_onnx(&bytes, EngineChoice::Tract).and_then(|network| answer(&network));
    let most = match (&case.tract, &tract) {
        (Tract::Fails, Err(_)) => return,
        (Tract::Fails, Ok(_)) => panic!("{}: tract runs it", case.name),
        (_, Err(error)) => panic!("{}: tract does not run it: {error}", case.name),
        (Tract::Agrees, _) => FLOATS * largest,
        (Tract::Steps(step), _) => step * 1.001,
    };
    check(&format!("{} against tract", case.name), &best, &tract.unwrap(), most);
}

#[test]
fn every_network_answers_as_its_reference() {
    // All of them, so that one that fails does not hide the others.
    let failed: Vec<&str> =
        CASES.iter().filter(|case| std::panic::catch_unwind(|| run(case)).is_err()).map(|case| case.name).collect();
    assert!(failed.is_empty(), "{} of {} cases failed: {failed:?}", failed.len(), CASES.len());
}

#[test]
fn weights_beside_a_file_are_as_good_as_inside_it() {
    let path = folder().join("external_data.onnx");
    let mut model = ModelProto::decode(&fs::read(&path).unwrap()[..]).unwrap();
    let data = fs::read(path.with_extension("data")).unwrap();
    for tensor in &mut model.graph.as_mut().unwrap().initializer {
        let entry = |key| tensor.external_data.iter().find(|e| e.key == key).unwrap().value.parse::<usize>().unwrap();
        tensor.raw_data = data[entry("offset")..][..entry("length")].to_vec();
        tensor.data_location = None;
        tensor.external_data.clear();
    }
    let inside = model.encode_to_vec();
    let golden = fs::read(path.with_extension("f32")).unwrap();
    let golden: Vec<f32> = golden.as_chunks().0.iter().map(|n| f32::from_le_bytes(*n)).collect();
    for choice in [EngineChoice::Best, EngineChoice::Tract] {
        let network = Network::open(&path, choice).unwrap();
        assert_eq!(network.unrecognised().is_none(), choice == EngineChoice::Best);
        let found = answer(&network).unwrap();
        check(&format!("{choice:?}"), &found, &golden, FLOATS * golden.iter().fold(0f32, |m, v| m.max(v.abs())));
        assert_eq!(found, answer(&Network::from_onnx(&inside, choice).unwrap()).unwrap(), "{choice:?}");
    }
}

#[test]
fn the_table_has_every_file() {
    let listed: BTreeSet<String> = CASES.iter().map(|c| c.name.to_owned()).collect();
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let found: BTreeSet<String> = files
        .filter(|path| path.extension().is_some_and(|e| e == "onnx"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed, found);
    assert_eq!(listed.len(), CASES.len(), "a case is listed twice");
}
